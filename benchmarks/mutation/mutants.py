"""Makes one-line bugs in a module's syntax tree: swapped operators, lost factors, other constants.

A mutant is the module with one node replaced. Text is not mutated: docstrings, messages, annotations, and
what is raised or logged.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_PAIRS = (
    ("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all"),
    ("sum", "mean"), ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"),
)  # fmt: skip
SWAPPED = dict(_PAIRS) | {second: first for first, second in _PAIRS}
DROPPED_METHODS = {
    "clamp", "clip", "abs", "sum", "mean", "max", "min", "amax", "amin", "sqrt", "exp", "log", "sigmoid",
    "softmax", "flatten", "unsqueeze", "squeeze", "permute", "transpose", "sort", "round", "detach", "clone",
    "copy", "float", "eval", "requires_grad_", "masked_fill", "astype", "reshape", "cumsum",
    "removeprefix", "removesuffix", "lower", "strip", "casefold",
}  # fmt: skip
DROPPED_FUNCTIONS = {"sorted", "abs", "reversed", "round", "sum"}
DROPPED_DECORATORS = {"no_grad", "inference_mode"}
TEXT_CALLS = {"dataclass", "log", "print", "warn", "warning", "UserError", "ValueError", "TypeError", "some"}


@dataclass(frozen=True)
class Mutant:
    """The `variant`-th replacement of the `node`-th node in `ast.walk` order.

    lines: the first and last line of its statement; for a function's defaults and decorators, those of the
    whole function; (1, 0), an empty range, if it belongs to no function. on_import: whether it is executed
    when the module is imported.
    """

    node: int
    variant: int
    line: int
    lines: tuple[int, int]
    on_import: bool
    text: str


def mutants_of(source: str, *, strings: bool = False) -> list[Mutant]:
    """All mutants of a module's source; `strings`: also mutate strings, for maps between names."""
    tree = ast.parse(source)
    spans, skipped = _spans(tree), _skipped(tree)
    result = []
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for variant, new in enumerate(_replacements(node, strings)):
            before, after = _text(node), _text(new)
            line = getattr(node, "lineno", 0)
            lines, on_import = spans[id(node)]
            result.append(Mutant(index, variant, line, lines, on_import, f"{before} -> {after}"))
    return sorted(result, key=lambda mutant: (mutant.line, mutant.node, mutant.variant))


def mutated(source: str, mutant: Mutant, *, strings: bool = False) -> ast.Module:
    """The syntax tree of the module with the mutant's node replaced."""
    tree = ast.parse(source)
    target = list(ast.walk(tree))[mutant.node]
    new = _replacements(target, strings)[mutant.variant]
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is target for item in value):
                setattr(parent, name, [new if item is target else item for item in value])
    ast.copy_location(new, target)
    return ast.fix_missing_locations(tree)


def _replacements(node: ast.AST, strings: bool) -> list[ast.AST]:
    """The replacements of `node`: new nodes that may share parts with it."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if isinstance(op, ast.Add) and any(map(_is_text, (left, right))):
                return []
            swapped = ast.BinOp(left, BINARY[type(op)](), right) if type(op) in BINARY else None
            return [new for new in (swapped, left, right) if new is not None]
        case ast.AugAssign(target=target, op=op, value=value):
            return [
                ast.Pass(),
                *([ast.AugAssign(target, BINARY[type(op)](), value)] if type(op) in BINARY else []),
            ]
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return [
                ast.Compare(left, [*ops[:at], new(), *ops[at + 1 :]], comparators)
                for at, op in enumerate(ops)
                for new in COMPARISONS[type(op)]
            ]
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            parts = [[*values[:at], *values[at + 1 :]] for at in range(len(values))]
            return [ast.BoolOp(other, values), *(p[0] if len(p) == 1 else ast.BoolOp(op, p) for p in parts)]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            return [operand]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1)]
        case ast.Constant(value=float(value)):
            return [ast.Constant(value * 2 if value else 1.0)]
        case ast.Constant(value=str(value)) if strings and value:
            return [ast.Constant(f"{value}x")]
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
        case ast.If(body=body, orelse=orelse):
            return [ast.If(ast.Constant(value), body, orelse) for value in (True, False)]
        case ast.While(body=body, orelse=orelse):
            return [ast.While(ast.Constant(False), body, orelse)]
        case ast.comprehension(target=target, iter=iterable, ifs=[_, *_], is_async=is_async):
            return [ast.comprehension(target, iterable, [], is_async)]
        case ast.Continue():
            return [ast.Pass(), ast.Break()]
        case ast.Break():
            return [ast.Pass()]
        case ast.Expr(value=ast.Call() as call) if _name(call.func) not in TEXT_CALLS:
            return [ast.Pass()]
        case ast.Assign(targets=[ast.Subscript()]):
            return [ast.Pass()]
        case ast.Slice(lower=lower, upper=upper, step=step):
            return [
                ast.Slice(None if at == 0 else lower, None if at == 1 else upper, None if at == 2 else step)
                for at, part in enumerate((lower, upper, step))
                if part is not None
            ]
        case ast.Call():
            return _calls(node)
        case ast.FunctionDef():
            return _decorators(node)
    return []


def _calls(node: ast.Call) -> list[ast.AST]:
    found: list[ast.AST] = []
    name = _name(node.func)
    if name in SWAPPED:
        other = (
            ast.Attribute(node.func.value, SWAPPED[name], ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(SWAPPED[name], ast.Load())
        )
        found.append(ast.Call(other, node.args, node.keywords))
    if name in DROPPED_METHODS and isinstance(node.func, ast.Attribute):
        found.append(node.func.value)
    if name in DROPPED_FUNCTIONS and isinstance(node.func, ast.Name) and node.args:
        found.append(node.args[0])
    for at, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict"):
            found.append(ast.Call(node.func, node.args, [*node.keywords[:at], *node.keywords[at + 1 :]]))
    return found


def _decorators(node: ast.FunctionDef) -> list[ast.AST]:
    kept = [
        decorator
        for decorator in node.decorator_list
        if _name(decorator.func if isinstance(decorator, ast.Call) else decorator) not in DROPPED_DECORATORS
    ]
    if len(kept) == len(node.decorator_list):
        return []
    return [ast.FunctionDef(node.name, node.args, node.body, kept, node.returns)]


def _skipped(tree: ast.Module) -> set[int]:
    """The nodes that are text or types, and all nodes inside them."""
    return {id(inner) for node in ast.walk(tree) for part in _texts(node) for inner in ast.walk(part)}


def _texts(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
            yield node
        case ast.Call() if _name(node.func) in TEXT_CALLS:
            yield node
        case ast.keyword(arg="strict"):  # of zip(): checks what holds by construction
            yield node
        case ast.FunctionDef(returns=ast.AST() as returns):
            yield returns
        case ast.arg(annotation=ast.AST() as annotation) | ast.AnnAssign(annotation=annotation):
            yield annotation
        case ast.Expr(value=ast.Constant()):
            yield node
        case ast.Assign(value=value) if _is_type(value):
            yield node
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            yield node


def _is_type(node: ast.AST) -> bool:
    """Whether this is an alias of a type, such as dict[str, Tensor]."""
    return (isinstance(node, ast.Subscript) and _name(node.value)[:1].isupper()) or (
        isinstance(node, ast.Subscript) and _name(node.value) in ("dict", "list", "tuple")
    )


def _spans(tree: ast.Module) -> dict[int, tuple[tuple[int, int], bool]]:
    """By node: `lines` and `on_import` of a `Mutant`."""
    spans: dict[int, tuple[tuple[int, int], bool]] = {}

    def visit(node: ast.AST, lines: tuple[int, int], on_import: bool) -> None:
        if isinstance(node, ast.stmt) and not on_import:
            body = getattr(node, "body", None)
            last = node.end_lineno or node.lineno
            lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else last)
        spans[id(node)] = (lines, on_import)
        inside: set[int] = set()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            inside = set(map(id, node.body if isinstance(node, ast.FunctionDef) else [node.body]))
            if on_import:
                lines = (node.lineno, node.end_lineno or node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child, lines, on_import and id(child) not in inside)

    visit(tree, (1, 0), True)
    return spans


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and type(node.value) is str)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.AST) -> str:
    """One line of code for a node."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    if isinstance(node, ast.While):
        return f"while {ast.unparse(node.test)}"
    if isinstance(node, ast.FunctionDef):
        return f"decorators of {node.name}: {', '.join(map(ast.unparse, node.decorator_list)) or 'none'}"
    text = ast.unparse(node if hasattr(node, "lineno") else ast.fix_missing_locations(node))
    return " ".join(text.split())
