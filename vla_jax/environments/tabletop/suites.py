"""The tasks, in suites along LIBERO's axes. This is a benchmark of its own, not LIBERO.

    reach    move above the named one of three blocks
    object   put one of three blocks, by colour, on one of two plates, by colour
    spatial  two blocks alike: which one is said by where it is
    goal     one scene, several goals: put, lift, stack
    long     two goals, one after the other
    unseen   `object` with combinations of block and plate that no other suite has

Left, right, front and back are as the front picture shows them. Initial states are numbered: a scene is a pure
function of (task, number). Axes: n things.
"""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from vla_jax.environments.tabletop.goals import Goal, Lift, PutOn, Reach

COLOURS = {
    "red": (0.85, 0.06, 0.06),
    "green": (0.05, 0.55, 0.12),
    "blue": (0.08, 0.2, 0.9),
    "yellow": (0.95, 0.85, 0.05),
    "purple": (0.55, 0.1, 0.7),
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.05),
    "cyan": (0.1, 0.85, 0.9),
}
BLOCKS = ("red", "green", "blue", "yellow", "purple")
PLATES = ("white", "black", "cyan")
UNSEEN = {("red", "cyan"), ("green", "white"), ("blue", "cyan"), ("yellow", "black"), ("purple", "white")}
REACH = ("reach the {} block", "move to the {} block", "go to the {} block", "hover over the {} block")
PUT = (
    "put {} on the {}",
    "place {} on the {}",
    "move {} onto the {}",
    "pick up {} and put it on the {}",
)
LIFTS = ("lift {}", "pick up {}", "raise {}")
STACK = ("stack {} on {}", "put {} on top of {}", "place {} on {}")


@dataclasses.dataclass(frozen=True)
class Item:
    """A body of the scene: `block_0..2`, `can`, `plate_0..1`."""

    body: str
    colour: str
    x: float
    y: float
    yaw: float = 0.0


@dataclasses.dataclass(frozen=True)
class Scene:
    items: tuple[Item, ...]
    tool: tuple[float, float, float, float]
    """Where the gripper starts: x, y, z, yaw."""


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    suite: str
    instructions: tuple[str, ...]
    goals: tuple[Goal, ...]
    arrange: Callable[[Generator], tuple[Item, ...]]

    def scene(self, initial_state: int) -> tuple[Scene, str]:
        """The scene and the instruction of an initial state."""
        generator = np.random.default_rng([zlib.crc32(self.name.encode()), initial_state])
        instruction = self.instructions[int(generator.integers(len(self.instructions)))]
        x, y = generator.uniform((-0.1, -0.12), (0.08, 0.12))
        z, yaw = generator.uniform((0.17, -0.2), (0.23, 0.2))
        return Scene(self.arrange(generator), (float(x), float(y), float(z), float(yaw))), instruction


@dataclasses.dataclass(frozen=True)
class Suite:
    tasks: tuple[Task, ...]
    seconds: float
    """A trial that is not done by then has failed."""


def _blocks(generator: Generator, colours: list[str], points: np.ndarray) -> tuple[Item, ...]:
    turns = generator.uniform(-0.4, 0.4, len(colours))
    return tuple(
        Item(f"block_{number}", colour, float(point[0]), float(point[1]), float(turn))
        for number, (colour, point, turn) in enumerate(zip(colours, points, turns))
    )


def _plates(colours: tuple[str, ...], points: np.ndarray) -> tuple[Item, ...]:
    return tuple(
        Item(f"plate_{number}", colour, float(point[0]), float(point[1]))
        for number, (colour, point) in enumerate(zip(colours, points))
    )


def _scatter(generator: Generator, radii: list[float], fits: Callable[[np.ndarray], bool] = lambda _: True):
    """float64[n, 2]: places on the table, further apart than the sums of their radii, with what `fits` asks for."""
    radius = np.array(radii)
    apart = radius[:, None] + radius[None] - np.eye(len(radii))
    while True:
        points = generator.uniform((-0.13, -0.18), (0.13, 0.18), (len(radii), 2))
        if (np.linalg.norm(points[:, None] - points[None], axis=-1) > apart).all() and fits(points):
            return points


BLOCK, PLATE, CAN = 0.05, 0.07, 0.045
"""Radii for `_scatter`: room for the open fingers."""


def _others(generator: Generator, colour: str, number: int) -> list[str]:
    return [str(c) for c in generator.choice([c for c in BLOCKS if c != colour], number, replace=False)]


def _reach(colour: str) -> Task:
    def arrange(generator: Generator) -> tuple[Item, ...]:
        colours = [colour, *_others(generator, colour, 2)]
        return _blocks(generator, colours, _scatter(generator, [BLOCK] * 3))

    phrasings = tuple(phrase.format(colour) for phrase in REACH)
    return Task(f"reach_{colour}", "reach", phrasings, (Reach("block_0"),), arrange)


def _object(suite: str, colour: str, plate: str) -> Task:
    def arrange(generator: Generator) -> tuple[Item, ...]:
        colours = [colour, *_others(generator, colour, 2)]
        other = str(generator.choice([p for p in PLATES if p != plate]))
        points = _scatter(generator, [BLOCK] * 3 + [PLATE] * 2)
        return _blocks(generator, colours, points[:3]) + _plates((plate, other), points[3:])

    phrasings = tuple(phrase.format(f"the {colour} block", f"{plate} plate") for phrase in PUT)
    return Task(f"{suite}_{colour}_{plate}", suite, phrasings, (PutOn("block_0", "plate_0"),), arrange)


RELATIONS: dict[str, tuple[str, Callable[[np.ndarray], bool]]] = {
    "left": ("the left block", lambda p: p[0, 1] < p[1, 1] - 0.1),
    "right": ("the right block", lambda p: p[0, 1] > p[1, 1] + 0.1),
    "front": ("the front block", lambda p: p[0, 0] > p[1, 0] + 0.1),
    "back": ("the back block", lambda p: p[0, 0] < p[1, 0] - 0.1),
    "near_can": ("the block next to the can", lambda p: _distance(p, 0, 2) < 0.12 and _distance(p, 1, 2) > 0.18),
    "far_can": ("the block far from the can", lambda p: _distance(p, 1, 2) < 0.12 and _distance(p, 0, 2) > 0.18),
}
"""Of the places of: the named block, the other one, the can."""


def _distance(points: np.ndarray, one: int, other: int) -> float:
    return float(np.linalg.norm(points[one] - points[other]))


def _spatial(relation: str) -> Task:
    phrase, fits = RELATIONS[relation]

    def arrange(generator: Generator) -> tuple[Item, ...]:
        points = _scatter(generator, [BLOCK, BLOCK, CAN, PLATE], fits)
        can = Item("can", "green", float(points[2, 0]), float(points[2, 1]))
        return (*_blocks(generator, ["red", "red"], points), can, *_plates(("white",), points[3:]))

    phrasings = tuple(sentence.format(phrase, "plate") for sentence in PUT)
    return Task(f"spatial_{relation}", "spatial", phrasings, (PutOn("block_0", "plate_0"),), arrange)


PAIR = ("red", "blue")
PAIR_PLATES = ("white", "black")


def _fixed(generator: Generator) -> tuple[Item, ...]:
    """The one scene of `goal`, give or take 1.5 cm."""
    points = np.array([[-0.04, -0.08], [-0.04, 0.08], [0.09, -0.11], [0.09, 0.11]])
    points = points + generator.uniform(-0.015, 0.015, points.shape)
    return _blocks(generator, list(PAIR), points) + _plates(PAIR_PLATES, points[2:])


def _anywhere(generator: Generator) -> tuple[Item, ...]:
    points = _scatter(generator, [BLOCK] * 2 + [PLATE] * 2)
    return _blocks(generator, list(PAIR), points) + _plates(PAIR_PLATES, points[2:])


def _goal_tasks() -> tuple[Task, ...]:
    tasks = []
    for number, colour in enumerate(PAIR):
        block, other = f"block_{number}", f"block_{1 - number}"
        name = f"the {colour} block"
        for place, plate in enumerate(PAIR_PLATES):
            phrasings = tuple(phrase.format(name, f"{plate} plate") for phrase in PUT)
            tasks.append(Task(f"goal_{colour}_{plate}", "goal", phrasings, (PutOn(block, f"plate_{place}"),), _fixed))
        phrasings = tuple(phrase.format(name) for phrase in LIFTS)
        tasks.append(Task(f"goal_lift_{colour}", "goal", phrasings, (Lift(block),), _fixed))
        phrasings = tuple(phrase.format(name, f"the {PAIR[1 - number]} block") for phrase in STACK)
        tasks.append(Task(f"goal_stack_{colour}", "goal", phrasings, (PutOn(block, other),), _fixed))
    return tuple(tasks)


def _long_tasks() -> tuple[Task, ...]:
    tasks = []
    for number, (plate, other_plate) in enumerate((PAIR_PLATES, PAIR_PLATES[::-1])):
        phrasings = tuple(
            f"{first.format('the red block', f'{plate} plate')} {joined} "
            f"{first.format('the blue block', f'{other_plate} plate')}"
            for first in PUT[:2]
            for joined in ("and", "then")
        )
        goals = (PutOn("block_0", f"plate_{number}"), PutOn("block_1", f"plate_{1 - number}"))
        tasks.append(Task(f"long_red_{plate}_blue_{other_plate}", "long", phrasings, goals, _anywhere))
    for number, colour in enumerate(PAIR):
        name, other = f"the {colour} block", f"the {PAIR[1 - number]} block"
        plate = PAIR_PLATES[number]
        phrasings = tuple(f"{phrase.format(name, f'{plate} plate')} and stack {other} on it" for phrase in PUT[:2])
        phrasings += (f"put {name} on the {plate} plate then put {other} on top of it",)
        goals = (PutOn(f"block_{number}", f"plate_{number}"), PutOn(f"block_{1 - number}", f"block_{number}"))
        tasks.append(Task(f"long_stack_on_{colour}", "long", phrasings, goals, _anywhere))
    return tuple(tasks)


def _combinations(*, unseen: bool) -> list[tuple[str, str]]:
    return [(block, plate) for block in BLOCKS for plate in PLATES if ((block, plate) in UNSEEN) == unseen]


SUITES = {
    "reach": Suite(tuple(_reach(colour) for colour in BLOCKS), 4.0),
    "object": Suite(tuple(_object("object", *pair) for pair in _combinations(unseen=False)), 12.0),
    "spatial": Suite(tuple(_spatial(relation) for relation in RELATIONS), 12.0),
    "goal": Suite(_goal_tasks(), 12.0),
    "long": Suite(_long_tasks(), 24.0),
    "unseen": Suite(tuple(_object("unseen", *pair) for pair in _combinations(unseen=True)), 12.0),
}
TASKS = {task.name: task for suite in SUITES.values() for task in suite.tasks}
