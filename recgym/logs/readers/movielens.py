"""MovieLens as published: 100K (u.data), 1M and 10M (ratings.dat), 20M, 25M, 32M and latest (ratings.csv).

Ratings become the behaviour "rating" in stars; the log has no exposures. Titles and the first genre of each film are
item features. Low ratings stay in the log, since they are feedback too.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair
from recgym.logs.tables import ROW, Columns, OnBadRows, read_text_columns, to_events

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""Genres of MovieLens-100K in the order of u.item's last 19 columns."""
_RATING = ("user", "item", "value", "time")


def read_movielens(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read any published MovieLens folder; see `recgym.logs.readers.read_log`."""
    columns = Columns(value="value", default_behaviour="rating")
    repairs: list[Repair] = []
    users: pl.DataFrame | None = None
    if (path := folder / "u.data").is_file():
        raw = read_text_columns(path, separator="\t", header=_RATING, on_bad_rows=on_bad_rows, repairs=repairs)
        items, users = _items_100k(folder / "u.item"), _users_100k(folder / "u.user")
    elif (path := folder / "ratings.dat").is_file():
        raw = _double_colon(path, _RATING, on_bad_rows, repairs)
        items = _items_1m(folder / "movies.dat")
    elif (path := folder / "ratings.csv").is_file():
        raw = read_text_columns(path, on_bad_rows=on_bad_rows, repairs=repairs)
        columns = Columns(user="userId", item="movieId", time="timestamp", value="rating", default_behaviour="rating")
        items = _items_csv(folder / "movies.csv")
    else:
        raise LogError(f"{folder}: no u.data, ratings.dat or ratings.csv; give the unpacked MovieLens folder")
    events, found = to_events(raw, columns, str(path), on_bad_rows=on_bad_rows, repairs=repairs)
    return InteractionLog(
        events=events, name=_name(folder), items=items, users=users, units={"rating": "stars"}, repairs=found
    )


def _name(folder: Path) -> str:
    return "MovieLens-100K" if (folder / "u.data").is_file() else f"MovieLens ({folder.resolve().name})"


def _items_100k(path: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    names = ("item", "title", "released", "video", "url", *GENRES)
    table = read_text_columns(path, separator="|", header=names, encoding="iso-8859-1")
    genre = pl.coalesce(pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in GENRES)
    return table.select("item", "title", category=genre.fill_null("unknown"))


def _users_100k(path: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    names = ("user", "age", "gender", "occupation", "zip")
    return read_text_columns(path, separator="|", header=names, encoding="iso-8859-1").drop(ROW)


def _items_1m(path: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    try:
        path.read_bytes().decode()
        encoding = "utf8"  # of MovieLens-10M
    except UnicodeDecodeError:
        encoding = "iso-8859-1"  # of MovieLens-1M
    table = _double_colon(path, ("item", "title", "genres"), "error", [], encoding=encoding)
    return _first_genre(table.select("item", "title", "genres"))


def _items_csv(path: Path) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    table = read_text_columns(path)
    for name in ("movieId", "title", "genres"):
        if name not in table.columns:
            raise LogError(f"{path}: no column {name!r}; the file has {', '.join(table.columns[1:])}")
    return _first_genre(table.select(item="movieId", title="title", genres="genres"))


def _first_genre(table: pl.DataFrame) -> pl.DataFrame:
    return table.select("item", "title", category=pl.col("genres").str.split("|").list.first())


def _double_colon(
    path: Path, header: tuple[str, ...], on_bad_rows: OnBadRows, repairs: list[Repair], encoding: str = "utf8"
) -> pl.DataFrame:
    """A file whose fields are separated by "::", which no CSV reader takes, as text columns and `ROW`."""
    raw = read_text_columns(
        path, separator="\x1f", header=("line",), encoding=encoding, on_bad_rows=on_bad_rows, repairs=repairs
    )
    parts = raw["line"].str.split_exact("::", len(header)).struct.rename_fields([*header, "rest"]).struct.unnest()
    wrong = parts["rest"].is_not_null()
    if wrong.any():
        place = int(wrong.arg_max() or 0)
        where = f"{path}, row {raw[ROW][place]}: more than {len(header)} fields: {raw['line'][place]!r}"
        if on_bad_rows == "error":
            raise LogError(f"{where}; correct it, or choose on_bad_rows='drop'")
        repairs.append(Repair("dropped: rows with too many fields", int(wrong.sum()), where))
    return parts.drop("rest").with_columns(raw[ROW]).filter(~wrong)
