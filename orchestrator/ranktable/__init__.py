"""Rank tables: the one typed model of them (`model`), reading all versions (`reading`), their rules (`rules`), making
them (`building`). Pure: text and values in, values out. How a version is spelled is its template's affair
(`templates/rank_table/`).
"""
