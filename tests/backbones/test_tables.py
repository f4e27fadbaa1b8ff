"""Each row of Tables 1 and 2, quoted from the paper, against the shapes in a network that runs."""

import pytest
import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.network import MobileNet
from cls.model import Classifier

# input, operator, exp size, #out, SE, NL, s
TABLE_1 = """
224^2x3   conv2d,3x3  -    16   -  HS 2
112^2x16  bneck,3x3   16   16   -  RE 1
112^2x16  bneck,3x3   64   24   -  RE 2
56^2x24   bneck,3x3   72   24   -  RE 1
56^2x24   bneck,5x5   72   40   SE RE 2
28^2x40   bneck,5x5   120  40   SE RE 1
28^2x40   bneck,5x5   120  40   SE RE 1
28^2x40   bneck,3x3   240  80   -  HS 2
14^2x80   bneck,3x3   200  80   -  HS 1
14^2x80   bneck,3x3   184  80   -  HS 1
14^2x80   bneck,3x3   184  80   -  HS 1
14^2x80   bneck,3x3   480  112  SE HS 1
14^2x112  bneck,3x3   672  112  SE HS 1
14^2x112  bneck,5x5   672  160  SE HS 2
7^2x160   bneck,5x5   960  160  SE HS 1
7^2x160   bneck,5x5   960  160  SE HS 1
7^2x160   conv2d,1x1  -    960  -  HS 1
7^2x960   pool,7x7    -    -    -  -  1
1^2x960   conv2d,1x1  -    1280 -  HS 1
1^2x1280  conv2d,1x1  -    k    -  -  1
"""

# Without the paper's SE tick on the 576-channel conv, with which the network would not have 2.5M parameters.
TABLE_2 = """
224^2x3   conv2d,3x3  -    16   -  HS 2
112^2x16  bneck,3x3   16   16   SE RE 2
56^2x16   bneck,3x3   72   24   -  RE 2
28^2x24   bneck,3x3   88   24   -  RE 1
28^2x24   bneck,5x5   96   40   SE HS 2
14^2x40   bneck,5x5   240  40   SE HS 1
14^2x40   bneck,5x5   240  40   SE HS 1
14^2x40   bneck,5x5   120  48   SE HS 1
14^2x48   bneck,5x5   144  48   SE HS 1
14^2x48   bneck,5x5   288  96   SE HS 2
7^2x96    bneck,5x5   576  96   SE HS 1
7^2x96    bneck,5x5   576  96   SE HS 1
7^2x96    conv2d,1x1  -    576  -  HS 1
7^2x576   pool,7x7    -    -    -  -  1
1^2x576   conv2d,1x1  -    1024 -  HS 1
1^2x1024  conv2d,1x1  -    k    -  -  1
"""

NONLINEARITY = {"HS": nn.Hardswish, "RE": nn.ReLU, "-": nn.Identity}
TABLES = [(mobilenet_v3_large(), TABLE_1), (mobilenet_v3_small(), TABLE_2)]


def rows_of(table):
    return [line.split() for line in table.strip().splitlines()]


def run_recorded(classifier):
    """Input and output shape of each module of a Classifier on one 224x224 image, on the meta device."""
    shapes = {}
    for name, module in classifier.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update({name: (inputs[0].shape, output)})
        )
    classifier(torch.empty(1, 3, 224, 224, device="meta"))
    return shapes


def size_text(shape):
    return f"{shape[2]}^2x{shape[1]}" if len(shape) == 4 else f"1^2x{shape[1]}"


@pytest.mark.parametrize(("spec", "table"), TABLES, ids=["table1", "table2"])
def test_every_layer_is_the_papers_row(spec, table):
    with torch.device("meta"):
        classifier = Classifier(backbone=spec, num_classes=1000).eval()
    shapes = run_recorded(classifier)
    net = classifier.backbone
    first, *bnecks = [row for row in rows_of(table) if row[1] == "conv2d,3x3" or row[1].startswith("bneck")]
    last, pool, hidden, final = rows_of(table)[len(bnecks) + 1 :]
    assert len(net.blocks) == len(bnecks)

    def check(name, row, *, act):
        assert size_text(shapes[name][0]) == row[0]
        if row[3] != "-":
            assert shapes[name][1].shape[1] == (1000 if row[3] == "k" else int(row[3]))
        assert type(act) is NONLINEARITY[row[5]]

    check("backbone.stem", first, act=net.stem.act)
    assert net.stem.conv.stride == (int(first[6]),) * 2
    assert net.stem.conv.kernel_size == (3, 3)
    # Blocks run through parts(), which calls no hooks: look at their convolutions.
    for i, (block, row) in enumerate(zip(net.blocks, bnecks, strict=True)):
        size_in, operator, exp, out, se, nonlinearity, stride = row
        entry = "expand" if block.expand else "depthwise"
        assert size_text(shapes[f"backbone.blocks.{i}.{entry}"][0]) == size_in
        assert operator == "bneck,{}x{}".format(*block.depthwise.conv.kernel_size)
        assert block.depthwise.conv.out_channels == block.depthwise.conv.groups == int(exp)
        assert shapes[f"backbone.blocks.{i}.project"][1].shape[1] == int(out)
        assert (block.se is not None) == (se == "SE")
        assert type(block.depthwise.act) is NONLINEARITY[nonlinearity]
        assert block.expand is None or type(block.expand.act) is NONLINEARITY[nonlinearity]
        assert type(block.project.act) is nn.Identity
        assert block.depthwise.conv.stride == (int(stride),) * 2
    check("backbone.last", last, act=net.last.act)
    check("pool", pool, act=nn.Identity())
    check("hidden", hidden, act=classifier.act)
    check("classifier", final, act=nn.Identity())


@pytest.mark.parametrize(("spec", "table"), TABLES, ids=["table1", "table2"])
def test_channels_and_strides_are_what_comes_out(spec, table):
    taps = (
        "last",
        "stem",
        *(f"block{i}{part}" for i in (1, 4, 9) for part in ("", ".expansion", ".depthwise")),
    )
    with torch.device("meta"):
        net = MobileNet(spec, taps)
    features = net(torch.empty(2, 3, 224, 224, device="meta"))
    assert tuple(features) == taps
    for tap, feature in features.items():
        side = 224 // net.strides[tap]
        assert feature.shape == (2, net.channels[tap], side, side)


def test_se_squeezes_to_a_quarter_of_the_expansion():
    # Section 5.3: "we fix them all to be 1/4 of the number of channels in expansion layer".
    with torch.device("meta"):
        net = MobileNet(mobilenet_v3_large())
    squeezed = [block.se.reduce.out_channels for block in net.blocks if block.se]
    # 72/4 = 18 and 120/4 = 30 round to multiples of 8.
    assert squeezed == [24, 32, 32, 120, 168, 168, 240, 240]
    assert all(type(block.se.gate) is nn.Hardsigmoid for block in net.blocks if block.se)
