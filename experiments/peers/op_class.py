"""What each instruction of a compiled step does, by the text of the program (optimised HLO).

| class                    | what it has                                                                        |
| ------------------------ | ---------------------------------------------------------------------------------- |
| convolution              | forward, also as im2col and matrix product                                         |
| convolution, by input    | backward: the gradient with respect to the input                                   |
| convolution, by weights  | backward: the gradient with respect to the kernel                                  |
| matrix product           | the head, and products of matrices outside of convolutions                         |
| norm, neuron, pooling    | the layers of that kind, forward and backward; global pooling, too                 |
| copies                   | what only moves data, of whatever layer: transposes, pads, concatenations,         |
|                          | broadcasts, slices; and im2col and its transpose                                   |
| optimiser, loss, teacher | the named scopes of `snnkd_jax.training.trainer`; everything of the frozen teacher |
| other                    | normalisation of the images, sums of shortcuts, metrics                            |

An instruction belongs to a layer by its `op_name`, a path with names of Flax modules ("jit(train)/jvp(ResNet)/norm1").
The compiler leaves out the names of many convolutions and transposes their operands beforehand, so that neither names
nor `dim_labels` tell the two backward convolutions apart. Their operands do: one that reads no kernel is by weights.

A fusion is one instruction made of several. If it has products, they alone count, since they take most of its time; if
not, those that compute, and if there are none, it is a copy. Its class is the one for which most elements are computed:
a norm that the compiler moves into the loop of the neurons behind it counts as neuron, and the other way round.
"""

import collections
import dataclasses
import functools
import math
import re

CONVOLUTION, BY_INPUT, BY_WEIGHTS = "convolution", "convolution, by input", "convolution, by weights"
PRODUCT, COPIES, TEACHER, OTHER = "matrix product", "copies", "teacher", "other"
CLASSES = (
    *(CONVOLUTION, BY_INPUT, BY_WEIGHTS, PRODUCT),
    *("norm", "neuron", "pooling", COPIES, "optimiser", "loss", TEACHER, OTHER),
)
"""In the order of the tables."""

_PRODUCTS = {"convolution", "dot"}
_MOVES = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "reshape", "copy", "transpose"),
    *("broadcast", "concatenate", "pad", "slice", "dynamic-slice", "dynamic-update-slice", "reverse"),
}
_SCOPES = {"teacher": TEACHER, "optimizer": "optimiser", "loss": "loss"}
_LAYERS = {
    r"stem|conv(\d\w*|_shortcut)": CONVOLUTION,
    r"norm(\d|_)\w*": "norm",
    r"act(\d|_)\w*": "neuron",
    r"pool\d|global_pool|pool_final": "pooling",
    r"head|hidden": PRODUCT,
}
"""Names of the layers of the architectures in `snnkd_jax.models`."""

_HEADER = re.compile(r"(?:ENTRY )?%([\w.-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the program.

    Attributes:
        name: unique in the program.
        opcode: as in HLO, such as "add" or "fusion".
        elements: numbers of its result.
        operands: names, or the index of a parameter.
        calls: the computation of a fusion or a call; "" for others.
        op_name: the path of modules and the primitive that it comes from; "" if unknown.
        computation: the one that it belongs to.
    """

    name: str
    opcode: str
    elements: int
    operands: tuple[str, ...]
    calls: str
    op_name: str
    computation: str

    @functools.cached_property
    def words(self) -> list[str]:
        """The parts of the path, without those of transformations: "jvp(ResNet)" is "jvp" and "ResNet"."""
        return re.split(r"[/();]+", self.op_name)

    @property
    def scope(self) -> str | None:
        """The class of the named scope that it is in."""
        return next((kind for name, kind in _SCOPES.items() if name in self.words), None)

    @property
    def layer(self) -> str | None:
        """The class of the layer that it is in: that of its convolution forward, whatever it does there."""
        return next((kind for word in self.words for name, kind in _LAYERS.items() if re.fullmatch(name, word)), None)


class Program:
    """The instructions of an optimised HLO module."""

    def __init__(self, text: str):
        self.instructions: dict[str, Instruction] = {}
        self.bodies: dict[str, list[Instruction]] = {}
        body = computation = None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                computation = header[1]
                body = self.bodies[computation] = []
            elif body is not None and computation is not None and (found := _LINE.match(line)):
                body.append(_instruction(found, computation))
        self.instructions = {i.name: i for body in self.bodies.values() for i in body}
        self._callers = {i.calls: i for i in self.instructions.values() if i.calls}

    def classes(self) -> dict[str, str]:
        """Instruction to its class, those within fusions included."""
        return {name: self.op_class(i) for name, i in self.instructions.items()}

    def op_class(self, instruction: Instruction) -> str:
        """The class of an instruction; see the module's docstring."""
        body = self._fused(instruction)
        products = [i for i in body if i.opcode in _PRODUCTS]
        computing = products or [i for i in body if i.opcode not in _MOVES]
        if not computing:
            return TEACHER if any(i.scope == TEACHER for i in (instruction, *body)) else COPIES
        votes: collections.Counter[str] = collections.Counter()
        for i in computing:
            votes[self._class_of_one(i)] += max(i.elements, *(self._elements(name) for name in i.operands), 1)
        return votes.most_common(1)[0][0]

    def _class_of_one(self, i: Instruction) -> str:
        """The class of an instruction that computes something, by itself."""
        if i.scope is not None:
            return i.scope
        if i.opcode == "convolution" or (i.opcode == "dot" and i.layer == CONVOLUTION):
            if not any(self._is_kernel(name) for name in i.operands):
                return BY_WEIGHTS
            return BY_INPUT if "transpose(" in i.op_name else CONVOLUTION
        if i.opcode == "dot":
            return PRODUCT
        return COPIES if i.layer == CONVOLUTION else i.layer or OTHER

    def _fused(self, i: Instruction) -> list[Instruction]:
        return self.bodies[i.calls] if i.opcode == "fusion" else [i]

    def _elements(self, name: str) -> int:
        return self.instructions[name].elements if name in self.instructions else 0

    def _is_kernel(self, name: str) -> bool:
        """Whether a value is a kernel of the state, moved or cast at most."""
        while (i := self.instructions.get(name)) is not None:
            if i.opcode == "parameter" and i.computation in self._callers:
                name = self._callers[i.computation].operands[int(i.operands[0])]
            elif i.opcode == "parameter":
                return "kernel" in i.op_name
            elif i.operands and all(part.opcode in {*_MOVES, "convert"} for part in self._fused(i)):
                name = self._fused(i)[-1].operands[0] if i.opcode == "fusion" else i.operands[0]
            else:
                return False
        return False


def _instruction(line: re.Match[str], computation: str) -> Instruction:
    name, shape, opcode, rest = line.groups()
    operands, _, attributes = rest.partition(")")
    calls = re.search(r"(?:calls|to_apply)=%([\w.-]+)", attributes)
    op_name = re.search(r'op_name="([^"]*)"', attributes)
    return Instruction(
        name,
        opcode,
        sum(math.prod(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\w\[([\d,]*)\]", shape)),
        (operands,) if opcode == "parameter" else tuple(re.findall(r"%([\w.-]+)", operands)),
        calls[1] if calls else "",
        op_name[1] if op_name else "",
        computation,
    )
