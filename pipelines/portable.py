"""Refuse a pipeline that some engine would run wrong.

Dask's runner, for one, loses data without a word: outputs of finish_bundle, tagged outputs, all
leaves but one, Beam's own writers.  What is checked here ran with equal results on the in-process
runner, the portable runner, Dask and Spark.
"""

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.userstate import is_stateful_dofn

from clipsieve.errors import ClipsieveError

_ALLOWED_PRIMITIVES = (beam.ParDo, beam.GroupByKey, beam.Impulse, beam.Flatten, beam.Create)


class NotPortable(ClipsieveError):
    """A pipeline uses something that not every engine runs right."""


def check_portable(pipeline: beam.Pipeline) -> None:
    """Raise `NotPortable` if `pipeline` leaves the portable subset.

    One main output a step, exactly one leaf, no finish_bundle output, no state, no Beam IO.
    """
    visitor = _Visitor()
    pipeline.visit(visitor)
    leaves = visitor.produced - visitor.consumed
    if len(leaves) != 1:
        raise NotPortable(
            f"the pipeline has {len(leaves)} leaves ({sorted(map(str, leaves))}) and Dask runs "
            "one; join them with Flatten and Count"
        )


class _Visitor(PipelineVisitor):
    """Checks each step, and collects what is produced and what is consumed."""

    def __init__(self) -> None:
        self.produced: set[object] = set()
        self.consumed: set[object] = set()

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        # Beam's readers and writers are made of ordinary steps, which engines expand differently.
        kind = type(transform_node.transform)
        if kind.__module__.startswith("apache_beam.io."):
            raise NotPortable(
                f"step {transform_node.full_label} is Beam's {kind.__name__}, which not every "
                "engine runs; read and write in a DoFn"
            )

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        label, transform = transform_node.full_label, transform_node.transform
        self.consumed |= set(transform_node.inputs)
        self.consumed |= {side.pvalue for side in transform_node.side_inputs}
        outputs = transform_node.outputs
        self.produced |= set(outputs.values())
        if set(outputs) - {None, "None"}:
            raise NotPortable(f"step {label} has tagged outputs; yield (tag, value) pairs instead")
        if transform is not None and not isinstance(transform, _ALLOWED_PRIMITIVES):
            raise NotPortable(
                f"step {label} is a {type(transform).__name__}, which not every engine runs; "
                "read and write in a DoFn"
            )
        if isinstance(transform, beam.ParDo):
            _check_dofn(label, transform.fn)


def _check_dofn(label: str, fn: beam.DoFn) -> None:
    """Refuse bundles' outputs and state."""
    if type(fn).finish_bundle is not beam.DoFn.finish_bundle:
        raise NotPortable(f"step {label} has a finish_bundle, whose output Dask loses; drop it")
    if is_stateful_dofn(fn):
        raise NotPortable(f"step {label} keeps state, which Dask and Spark refuse; drop it")
