"""Keys of the provenance that every Parquet footer carries, and the version of the layout.

All values are UTF-8 text; those marked JSON are canonical JSON (sorted keys, no blanks).  Query
them with `SELECT decode(key), decode(value) FROM parquet_kv_metadata('samples/*.parquet')`.
"""

#: Layout of the output folder.  Readers refuse a folder whose major version is newer.
LAYOUT_VERSION = "3"

PREFIX = "clipsieve."
LAYOUT = PREFIX + "layout"
SEAL = PREFIX + "sha256"  #: of the file itself, these 64 digits taken as zeros
FAMILY = PREFIX + "family"  #: "samples", "embeddings", or a score family such as "clip"
REVISION = PREFIX + "rev"  #: short hash of everything that gives the columns their meaning
SHARD = PREFIX + "shard"
ROWS = PREFIX + "rows"
SOURCE_URI = PREFIX + "source_uri"
SOURCE_FINGERPRINT = PREFIX + "source_fingerprint"  #: JSON: size, version (mtime, ETag), rows
SOURCE_RANGE = PREFIX + "source_range"  #: JSON: which rows of the source file this shard covers
UID_HASH = PREFIX + "uid_hash"  #: sha256 over all uids in row order; equal across families
MODEL = PREFIX + "model"  #: JSON: model, pretrained, weights_sha256, preprocess, dtype, ...
LOGIT_SCALE = PREFIX + "logit_scale"  #: embeddings only: factor of the model's cosines
SCORERS = PREFIX + "scorers"  #: JSON, score families: version, revision, parameters by scorer
PARAMETERS = PREFIX + "parameters"  #: JSON, audits and metrics: how they were made
STATES = PREFIX + "states"  #: JSON: rows per state
SIBLINGS = PREFIX + "siblings"  #: JSON, ledger only: seals of the files written with it, by name
VERSIONS = PREFIX + "versions"  #: JSON: clipsieve, torch, open_clip, decoder, ...
DEVICE = PREFIX + "device"
RUN_ID = PREFIX + "run_id"
MEASURED_AT = PREFIX + "measured_at"  #: run metrics with scores: seconds since the epoch
REFERENCES = PREFIX + "references_col"  #: column of reference captions, if one was named
LEDGER = PREFIX + "ledger_rev"  #: scores from storage only: revision of the ledger they follow
LEDGER_KEY = PREFIX + "ledger_key"  #: removals: hash of the ledger's rows that were looked at
BUILD = PREFIX + "build"  #: audits and metrics: the wide build of that time
PATTERNS = PREFIX + "patterns"  #: JSON, subsets: rows by the steps of the filter they fail
MEMBERS = PREFIX + "members"  #: JSON, wide parts only: the shards glued into this part
REMOVALS = PREFIX + "removals"  #: removals: hash of which rows are removed, and by which lists
MATCHES = PREFIX + "matches"  #: JSON, removals: rows that are removed, and rows by list
