"""When two texts count as equal: only for keeping equal texts on one side, never for what the model reads."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_ZERO_WIDTH = r"[\x{00AD}\x{034F}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{FE00}-\x{FE0F}\x{FEFF}]+"
_SPACES = r"[\s\p{Z}]+"


def normalise(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return texts with compatible forms, case, spaces and zero-width characters made one.

    Full-width letters become ordinary ones (NFKC), upper case lower case; runs of white space one space, none at the ends.

    Args:
        texts: Strings.
    """
    texts = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    texts = pc.replace_substring_regex(texts, _ZERO_WIDTH, "")
    return pc.utf8_trim(pc.replace_substring_regex(texts, _SPACES, " "), " ")


def equality_keys(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return one string for each row; two rows are equal where these are: the text and, where there is one, the second text.

    Of rows with a prompt it is the prompt, and its input, that count: the same question is on one side, however it was answered.

    Args:
        table: Rows with `text` and perhaps `text_pair`, or `prompt` and perhaps `prompt_input`.
    """
    first, second = ("prompt", "prompt_input") if "prompt" in table.column_names else ("text", "text_pair")
    keys = normalise(table[first])
    if second in table.column_names:
        keys = pc.binary_join_element_wise(keys, normalise(table[second]), "\x1f")
    return keys
