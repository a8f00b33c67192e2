"""Formats that rows are read from; a file here is a format."""

from luthier.core.registry import Registry
from luthier.data.formats.format import Format

formats: Registry[Format] = Registry("luthier.data.formats", base="luthier.data.formats.format:Format", noun="format")
