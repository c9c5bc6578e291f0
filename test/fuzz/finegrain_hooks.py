"""What schemathesis cannot know of itself: how a body of a streaming route is written."""

import json

import schemathesis

STREAMED = ["application/x-ndjson", "application/jsonl", "application/vnd.apache.parquet", "application/octet-stream"]


@schemathesis.serializer(*STREAMED)
def as_lines(context: schemathesis.SerializationContext, value: object) -> bytes:
    """An example is text already; whatever else was generated becomes one line of JSON."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()
