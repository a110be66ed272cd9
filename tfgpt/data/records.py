"""Files of records, one document each: JSON, CSV, Parquet and saved `datasets` folders."""

import csv
import json
from pathlib import Path

from tfgpt.data.files import form_of, is_dataset
from tfgpt.data.streams import damage_named, import_pyarrow, read_text
from tfgpt.tokenizers import as_text

LONGEST = 2**26  # characters of one record
ROWS = 64  # of a table that are in memory at once


def read_records(path, field, encoding):
    """Yield the text of each record of a file, "" where it is null."""
    form, _ = form_of(path)
    if is_dataset(path):
        records = dataset_records(path, field)
    elif form == ".parquet":
        records = parquet_records(path, field)
    elif form == ".json":
        records = list_records(path, encoding)
    elif form in (".csv", ".tsv"):
        records = row_records(path, encoding, "," if form == ".csv" else "\t")
    else:
        records = line_records(path, encoding)
    for place, record in records:
        yield text_of(record, field, f"{place} of {str(path)!r}")


def text_of(record, field, place):
    """Return the text of a record, with "\n" as line end; "" if it is null."""
    if not isinstance(record, dict):
        raise ValueError(f"corpus must have an object on {place}, got {str(record)[:40]!r}.")
    value, keys = record, keys_of(field, record)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(missing_key(".".join(keys), record, place))
        value = value[key]
    try:
        text = as_text("" if value is None else value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"field must name a text, got {keys[-1]!r} on {place}: {error}") from error
    check_length(len(text), place)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def keys_of(field, names):
    """Return the way to the text in a record: the given one, the only one, or "text"."""
    field = field or (next(iter(names)) if len(names) == 1 else "text")
    return [field] if field in names else field.split(".")


def missing_key(field, names, place):
    """Say that a record has no such key, and which it has."""
    return (
        f"field must be the key or column of the text, got {field!r}, which is missing on "
        f"{place}: it has {', '.join(map(repr, names))[:300] or 'none'}."
    )


def check_length(length, *place):
    """Raise if a record is so long that it would fill the memory."""
    if length > LONGEST:
        raise ValueError(
            f"corpus must have records of at most {LONGEST:,} characters, got more on "
            f"{' '.join(map(str, place))}: cut it, or leave it out."
        )


def line_records(path, encoding):
    """Yield the place and the object of each line of a JSONL file."""
    for number, line in enumerate(read_lines(path, encoding), start=1):
        if line.strip():
            yield f"line {number}", parse(line, f"line {number} of {str(path)!r}")


def parse(text, place):
    """Read JSON; raise with the place if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"corpus must have JSON on {place}, got {text[:40]!r}: {error}."
        ) from error


def read_lines(path, encoding):
    """Yield the lines of a text without their ends; only "\n" ends one."""
    number, length, parts = 1, 0, []
    for chunk in read_text(path, encoding):
        *ended, rest = chunk.split("\n")
        if ended:
            ended[0] = "".join([*parts, ended[0]])
            yield from ended
            number, length, parts = number + len(ended), 0, []
        parts.append(rest)
        length += len(rest)
        check_length(length, "line", number, "of", path)
    if length:
        yield "".join(parts)


def list_records(path, encoding):
    """Yield the place and the object of each entry of a JSON file; it is read as a whole."""
    content, name = "", f"the list of {str(path)!r} (.jsonl, an object on each line, has no limit)"
    for chunk in read_text(path, encoding):
        content += chunk
        check_length(len(content), name)
    records = parse(content, name)
    if not isinstance(records, list):
        raise ValueError(f"corpus must have a list of objects in JSON, got another on {name}.")
    yield from ((f"entry {number}", record) for number, record in enumerate(records, start=1))


def row_records(path, encoding, delimiter):
    """Yield the place and {column: cell} of each row of a CSV or TSV file."""
    rows = read_rows(path, encoding, delimiter)
    _, names = next(rows, (0, []))
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"corpus must have {len(names)} cells in every row, as in the first, got "
                f"{len(row)} on line {number} of {str(path)!r}: put texts in quotes."
            )
        yield f"line {number}", dict(zip(names, row, strict=True))


def read_rows(path, encoding, delimiter):
    """Yield the last line's number and the cells of each row; a quoted cell may have lines."""
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    length = 0

    def lines():
        nonlocal length
        for number, line in enumerate(read_lines(path, encoding), start=1):
            length += len(line)
            check_length(length, "the row that reaches line", number, "of", path)
            yield f"{line}\n"

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            length = 0
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"corpus must be a table with {delimiter!r} between cells, got line {reader.line_num} "
            f"of {str(path)!r}: {error}."
        ) from error


def parquet_records(path, field):
    """Yield the place and {column: value} of each row of a Parquet file."""
    pyarrow = import_pyarrow(path)
    # Page by page: a group of rows may be larger than the memory.
    options = {"pre_buffer": False, "buffer_size": 2**20}
    with (
        damage_named(path, pyarrow.ArrowException, UnicodeDecodeError),
        pyarrow.parquet.ParquetFile(path, **options) as file,
    ):
        column = column_of(field, file.schema_arrow.names, path)
        batches = file.iter_batches(ROWS, columns=[column])
        yield from numbered(row for batch in batches for row in batch.to_pylist())


def dataset_records(path, field):
    """Yield the place and {column: value} of each row that the `datasets` library saved."""
    pyarrow = import_pyarrow(path)
    errors = (pyarrow.ArrowException, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError)
    with damage_named(path, *errors):
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        # The names alone: a damaged or hostile state must not point out of the folder.
        files = [path / Path(part["filename"]).name for part in state["_data_files"]]
        yield from numbered(row for file in files for row in arrow_rows(pyarrow, file, field))


def arrow_rows(pyarrow, path, field):
    """Yield the rows of a stream of Arrow batches, with the column of the text only."""
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
        column = column_of(field, stream.schema.names, path)
        for batch in stream:
            batch = batch.select([column])
            for start in range(0, batch.num_rows, ROWS):
                yield from batch.slice(start, ROWS).to_pylist()


def column_of(field, names, path):
    """Return the column that holds the text; raise with those that exist."""
    column = keys_of(field, names)[0]
    if column not in names:
        raise ValueError(missing_key(field or "text", names, str(path)))
    return column


def numbered(rows):
    """Yield each row with its place."""
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))
