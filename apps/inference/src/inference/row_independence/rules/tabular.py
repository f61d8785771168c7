"""The operators of ``ai.onnx.ml``, which scikit-learn's models are made of."""

from __future__ import annotations

from inference.row_independence.rules.operators import ML, Call, operator, unknown_dim
from inference.row_independence.values import ONE, Dim, MixesError, Shape, Value, product, rows


def _table(call: Call, position: int = 0) -> Shape:
    """The shape of that input, which has a row for each row; a vector would be one row."""
    shape, axis = call.rowed(position)
    if len(shape) != 2 or axis != 0:
        raise MixesError("it takes its input for one row")
    return shape


@operator("Imputer", "Normalizer", "Scaler", domain=ML)
def each_column(call: Call) -> Value:
    """Each row by itself, the same shape."""
    return rows(_table(call), 0)


@operator("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", domain=ML)
def classifier(call: Call) -> list[Value]:
    """A label and scores for each row."""
    size = _table(call)[0]
    return [rows([size], 0), rows([size, unknown_dim()], 0)]


@operator("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor", "TreeEnsemble", domain=ML)
def regressor(call: Call) -> Value:
    """Numbers for each row."""
    size = _table(call)[0]
    targets = 1 if call.node.operator == "SVMRegressor" else _targets(call)
    return rows([size, Dim(targets) if targets else unknown_dim()], 0)


def _targets(call: Call) -> int:
    default = 0 if call.node.operator == "TreeEnsembleRegressor" else 1
    if call.node.operator == "LinearRegressor":
        return call.number("targets", default)
    return call.number("n_targets", 0)


@operator("FeatureVectorizer", domain=ML)
def features(call: Call) -> Value:
    """The columns of several tables side by side."""
    shapes = [_table(call, position) for position in range(len(call.inputs))]
    if len({shape[0] for shape in shapes}) != 1:
        raise MixesError("its inputs do not have the same rows")
    return rows([shapes[0][0], unknown_dim()], 0)


@operator("ArrayFeatureExtractor", domain=ML)
def columns(call: Call) -> Value:
    """Some columns of a table; or, of a list of classes, the one that each row's index says.

    The indices are read one after another, whatever their shape, so rows must come first there.
    """
    value, index = call.data(0), call.data(1)
    if value.axis is None and value.shape and index.axis is not None and index.shape is not None:
        if product(index.shape[: index.axis]) != ONE:
            raise MixesError("it reads the indices of several rows alternately")
        leading = value.shape[:-1] or (ONE,)
        return rows([*leading, product(index.shape)], len(leading))
    shape = _table(call)
    call.all_fixed(1)
    return rows([shape[0], unknown_dim()], 0)


@operator("OneHotEncoder", domain=ML)
def one_hot_encoder(call: Call) -> Value:
    """A dimension more, for each element by itself."""
    shape, axis = call.rowed()
    categories = call.list_of("cats_int64s") or call.list_of("cats_strings")
    return rows([*shape, Dim(len(categories)) if categories else unknown_dim()], axis)


@operator("TfIdfVectorizer")
def tfidf(call: Call) -> Value:
    """Counts of the words of each row."""
    return rows([_table(call)[0], unknown_dim()], 0)


@operator("StringNormalizer")
def normalize_text(call: Call) -> Value:
    """Each text by itself, as long as none is left out."""
    shape, axis = call.rowed()
    if call.list_of("stopwords"):
        raise MixesError("it leaves out texts, so that later rows move up")
    if len(shape) != 1:
        raise MixesError("it takes one row at a time")
    return rows(shape, axis)
