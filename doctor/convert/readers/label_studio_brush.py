"""The run-length code of Label Studio's brush: bytes of an RGBA image, packed by the JavaScript library
@thi.ng/rle-pack.

A stream of bits: the number of values (32 bits), the bits of a value minus one (5), four numbers of bits of
a length, minus one (4 each); then blocks. A block is a flag, the index of the length's number of bits (2),
the length minus one, and one value, which is repeated, if the flag is set, else as many values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """The next `count` bits as a number. Raises: ValueError at the end."""
        start, self._at = self._at, self._at + count
        first, last = start // 8, (self._at + 7) // 8
        if last > len(self._data):
            raise ValueError("the code ends early")
        window = int.from_bytes(self._data[first:last], "big")
        return window >> (last * 8 - self._at) & ((1 << count) - 1)


def decode_brush(code: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose alpha is not 0, bool [height, width].

    Raises: ValueError if the code is damaged or is that of an image of another size.
    """
    bits = _Bits(bytes(code))
    count, bits_of_value = bits.read(32), bits.read(5) + 1
    bits_of_length = [bits.read(4) + 1 for _ in range(4)]
    if count != 4 * height * width:
        raise ValueError(f"{count} values, but the image has {height} x {width} pixels of 4")
    values, done = np.zeros(count, np.uint32), 0
    while done < count:
        repeated = bits.read(1)
        length = 1 + bits.read(bits_of_length[bits.read(2)])
        run = [bits.read(bits_of_value)] if repeated else [bits.read(bits_of_value) for _ in range(length)]
        values[done : done + length] = run[: count - done]
        done += length
    return values.reshape(height, width, 4)[..., 3] > 0
