"""All kinds of cases by name."""

from collections.abc import Callable

from tests.faults import hostile, inputs, kills, names, rot, storage, terminal
from tests.faults.lab import Lab
from tests.faults.outcome import Outcome

KINDS: dict[str, Callable[[Lab, int], Outcome]] = {
    module.KIND: module.run for module in (kills, storage, rot, inputs, names, terminal, hostile)
}
