"""In place of the other names of a hundred encodings: the file has three of them."""

_NAMES = {
    "ascii": "646 ansi_x3.4_1968 ansi_x3_4_1968 ansi_x3.4_1986 cp367 csascii ibm367 iso646_us iso_646.irv_1991 iso_ir_6"
    " us us_ascii",
    "latin_1": "8859 cp819 csisolatin1 ibm819 iso8859 iso8859_1 iso_8859_1 iso_8859_1_1987 iso_ir_100 l1 latin latin1",
    "utf_8": "u8 utf utf8 utf8_ucs2 utf8_ucs4 cp65001",
}
aliases = {name: encoding for encoding, names in _NAMES.items() for name in names.split()}
