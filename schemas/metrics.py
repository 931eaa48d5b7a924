"""Arrow schemas of the tables that `clipsieve evaluate` writes.  Imports nothing of ours."""

import pyarrow as pa


def _field(name: str, type: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, type, metadata={"doc": doc})


#: `metrics/dataset.parquet`: measures of the whole dataset, a row a group.
DATASET = pa.schema(
    [
        _field("group_by", pa.string(), "'all', 'shard', or a column of samples"),
        _field("group", pa.string(), "value of it, as text; NULL for rows without one"),
        _field("rows", pa.int64(), "rows with an image embedding"),
        _field("missing_rows", pa.int64(), "rows without one, in no measure"),
        _field("mano", pa.float64(), "MaNo of the branch taken; higher is a higher accuracy"),
        _field("mano_branch", pa.string(), "softmax if the criterion is above 5, else taylor"),
        _field("mano_softmax", pa.float64(), "MaNo of the softmax"),
        _field("mano_taylor", pa.float64(), "MaNo of 1 + z + z^2 / 2"),
        _field("mano_criterion", pa.float64(), "mean cross-entropy of uniform and softmax"),
        _field("mano_divergence", pa.float64(), "that less log K: KL(uniform, softmax)"),
        _field("mano_power", pa.int32(), "p of the norm"),
        _field("mano_threshold", pa.float64(), "criterion above which the softmax is taken"),
        _field("classes", pa.int32(), "K"),
        _field("prompts", pa.string(), "hash of the classes and their texts"),
        _field("logit_scale", pa.float64(), "logits are cosines times it"),
        _field("labels", pa.string(), "column of labels; NULL without labels, as what follows"),
        _field("labelled_rows", pa.int64(), "rows of the measures that follow"),
        _field("unlabelled_rows", pa.int64(), "rows with an embedding, whose label is NULL"),
        _field("unknown_labels", pa.int64(), "rows with an embedding, whose label is no class"),
        _field("accuracy", pa.float64(), "share of rows whose nearest class is their label"),
        _field("ece", pa.float64(), "expected calibration error, bins (lo, hi] of equal width"),
        _field("ece_bins", pa.int32(), "how many bins"),
        _field("aurc", pa.float64(), "area under risk by coverage, from (0, 0), by trapezoids"),
    ]
)


def _estimate(name: str, doc: str) -> list[pa.Field]:
    return [
        _field(name, pa.float64(), doc),
        _field(f"{name}_low", pa.float64(), "2.5th percentile of the bootstrap replicates"),
        _field(f"{name}_high", pa.float64(), "97.5th percentile"),
    ]


#: `metrics/detectors.parquet`: how well each score tells two sets of rows apart, best first.
DETECTORS = pa.schema(
    [
        _field("column", pa.string(), "of scores; higher is more out of distribution"),
        _field("family", pa.string(), "that it is in"),
        _field("scorer", pa.string(), "that made it"),
        _field("revision", pa.string(), "of its values"),
        _field("out_of_distribution", pa.string(), "the other folder, or column=values"),
        _field("in_rows", pa.int64(), "in-distribution rows with a score"),
        _field("out_rows", pa.int64(), "out-of-distribution rows with a score"),
        _field("in_missing", pa.int64(), "in-distribution rows without one, left out"),
        _field("out_missing", pa.int64(), "out-of-distribution rows without one, left out"),
        *_estimate("auroc", "chance that an OOD row scores higher; ties count one half"),
        *_estimate("aupr_in", "average precision, in-distribution is positive"),
        *_estimate("aupr_out", "average precision, out-of-distribution is positive"),
        *_estimate("fpr95", "share of OOD rows accepted, see fpr95_convention"),
        _field("fpr95_convention", pa.string(), "which rows count, and at which threshold"),
        _field("bootstrap", pa.int32(), "stratified replicates; 0 gives no intervals"),
        _field("seed", pa.int64(), "of the bootstrap"),
        _field("interval_binned", pa.bool_(), "intervals are of scores in quantile bins"),
    ]
)
