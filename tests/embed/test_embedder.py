"""Running out of memory fails one shard with its reason; the others go on."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import clipsieve
from clipsieve.clip.decode import decode_image
from clipsieve.embed import embedder, prepare
from clipsieve.embed.commit import ShardWriter
from clipsieve.formats import parquet
from clipsieve.formats.parquet_rows import read_parquet


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_shard_that_does_not_fit_in_memory_fails_alone(tmp_path, monkeypatch):
    no_room = png("red")

    def decode(image, *rest):
        if image == no_room:
            raise MemoryError
        return decode_image(image, *rest)

    def read(item, source):
        batches = read_parquet(item, source)
        yield next(batches)
        if item.shard == "read":
            raise MemoryError

    commit = ShardWriter.commit

    def write(writer, shard):
        if shard.item.shard == "write":
            raise MemoryError
        commit(writer, shard)

    monkeypatch.setattr(embedder, "decode_image", decode)
    monkeypatch.setattr(parquet, "read_parquet", read)
    monkeypatch.setattr(ShardWriter, "commit", write)
    monkeypatch.setattr(prepare, "MAX_TEXT_BYTES", 100_000)
    for name in ("decode", "good", "last", "read", "text", "write"):
        rows = 50
        image = no_room if name == "decode" else png("blue")
        url = "u" * 3000 if name == "text" else "u"
        table = pa.table({"jpg": [image] * rows, "caption": [name] * rows, "url": [url] * rows})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    result = clipsieve.run(
        [str(tmp_path / "*.parquet")],
        str(tmp_path / "out"),
        scorers=("clip",),
        max_failed_shards=4,
        batch_size=8,
    )
    assert dict(result.counts.states) == {"ok": 100}
    errors = {record.shard: str(record.error) for record in result.failed}
    assert errors.keys() == {"decode", "read", "text", "write"}
    for name in ("decode", "write"):
        assert "it takes more memory than there is; cut it into smaller files" in errors[name]
        assert f"{name}.parquet" in errors[name]
    assert "read.parquet: it takes more memory than there is" in errors["read"]
    assert "of its first 50 rows take over 100,000 bytes" in errors["text"]
    assert "leave column 'url' out with --leave-out" in errors["text"]
