"""The native layers against their torch forms: values, gradients, threads, NaN, and no compiler."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from marl import native
from marl.agents import qmix
from marl.nets import GRU, MLP, kernels, linear
from marl.nets.recurrent import gru_sequence
from marl.returns import lambda_returns, lambda_returns_torch
from marl.rng import Rng
from marl.value import double_q_actions
from marl.value.explore import epsilon_greedy_torch
from marl.value.network import RecurrentQ

pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="needs a C++ compiler")


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gradients(y, leaves):
    weights = torch.randn(y.shape, generator=_generator(9), dtype=y.dtype)
    return torch.autograd.grad((y * weights).sum(), leaves)


def _compare(native_out, torch_out, leaves):
    """Values and gradients within 1e-5 of the largest number of each tensor."""
    pairs = [
        (native_out, torch_out),
        *zip(*(_gradients(y, leaves) for y in (native_out, torch_out)), strict=True),
    ]
    for ours, reference in pairs:
        scale = float(reference.detach().abs().max())
        assert scale > 0
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * scale)


SIZES = [(1, 1, 1), (7, 5, 3), (50, 16, 32), (130, 42, 64), (100, 70, 100), (49, 64, 9), (60, 200, 150)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_linear_equals_its_torch_form(rows, inputs, outputs, copies, relu):
    layer = linear(inputs, outputs, generator=_generator(), copies=copies)
    lead = (rows,) if copies is None else (rows, copies)
    x = torch.randn(*lead, inputs, generator=_generator(1), requires_grad=True)
    reference = layer._torch(x)
    layer._torch = None  # the native form does not lean on it
    _compare(layer(x, relu=relu), reference.relu() if relu else reference, [x, *layer.parameters()])


@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("sizes", [(5, 3, 1), (48, 256, 192), (20, 70, 33, 64)])
def test_mlp_equals_its_layers_one_by_one(sizes, copies):
    mlp = MLP(sizes, generator=_generator(), copies=copies)
    lead = (60,) if copies is None else (60, copies)
    x = torch.randn(*lead, sizes[0], generator=_generator(1), requires_grad=True)
    _compare(mlp(x), mlp.by_layers(x), [x, *mlp.parameters()])
    with torch.no_grad():
        assert torch.equal(mlp(x), mlp(x.clone().requires_grad_()))


@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.12, 0.2])  # of entries that are not zero; below 1/8 is sparse
@pytest.mark.parametrize("inputs", [64, 101])
def test_linear_of_inputs_that_are_mostly_zeros_equals_its_torch_form(inputs, share, copies):
    layer = linear(inputs, 33, generator=_generator(), copies=copies)
    lead = (150,) if copies is None else (150, copies)  # blocks of 48 rows: the first is dense
    x = torch.randn(*lead, inputs, generator=_generator(1))
    x[48:] *= torch.rand(102, *lead[1:], inputs, generator=_generator(2)) < share
    x.requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer._torch(x))
    _compare(layer(x, relu=True), layer._torch(x).relu(), [x, *layer.parameters()])


@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(
    ("sequences", "inputs", "hidden"), [(1, 1, 1), (2, 5, 8), (3, 16, 16), (5, 20, 40), (9, 64, 64)]
)
def test_gru_equals_its_torch_form(sequences, inputs, hidden, initial, copies):
    gru = GRU(inputs, hidden, generator=_generator(), copies=copies)
    x = torch.randn(sequences, 11, 3, inputs, generator=_generator(1), requires_grad=True)
    h = torch.randn(sequences, 3, hidden, generator=_generator(2)) if initial else None
    start = torch.rand(sequences, 11, generator=_generator(3)) < 0.2
    reference = gru_sequence(gru.input._torch(x), _Torch(gru.recurrent), start, h)
    _compare(gru(x, start, h), reference, [x, *gru.parameters()])
    if initial:
        with torch.no_grad():
            never = torch.zeros_like(start)
            torch.testing.assert_close(gru.step(x[:, 0], h), gru(x, never, h)[:, 0])


class _Torch:
    """Calls the torch form of a layer."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer._torch(x)


def test_gradients_of_the_torch_forms_are_right():
    """gradcheck in double precision: layers are native in float32 only, so that this is the reference."""
    for copies in (None, 2):
        gru = GRU(3, 4, generator=_generator(), copies=copies).double()
        x = torch.randn(2, 5, 2, 3, generator=_generator(1), dtype=torch.float64, requires_grad=True)
        start = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
        parameters = list(gru.parameters())

        def run(x, *_, gru=gru, start=start):
            return gru(x, start)

        assert torch.autograd.gradcheck(run, (x, *parameters))


def test_values_do_not_depend_on_threads_and_gradients_only_in_their_rounding():
    gru, layer = GRU(64, 64, generator=_generator()), linear(64, 64, generator=_generator())
    x = torch.randn(32, 64, 3, 64, generator=_generator(1), requires_grad=True)  # enough work for two
    start = torch.rand(32, 64, generator=_generator(2)) < 0.1
    leaves = [x, *gru.parameters(), *layer.parameters()]
    results = []
    for threads in (1, 2, 2):
        with _threads(threads):
            y = gru(layer(x, relu=True), start)
            results.append((y.detach(), *_gradients(y, leaves)))
    for one, two, again in zip(*results, strict=True):
        assert torch.equal(two, again)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0][0], results[1][0])  # values
    assert torch.equal(results[0][1], results[1][1])  # gradient of the input


def test_more_threads_than_rows():
    gru = GRU(256, 256, generator=_generator())  # much work in one sequence
    x = torch.randn(1, 40, 2, 256, generator=_generator(1))
    start = torch.zeros(1, 40, dtype=torch.bool)
    y = gru(x, start)
    with _threads(4):
        again = gru(x, start)
        _gradients(again, list(gru.parameters()))
    assert torch.equal(y, again)


def test_nan_reaches_the_result():
    """A run must stop at a NaN: neither ReLU nor the activations may swallow one."""
    layer, gru = linear(5, 4, generator=_generator()), GRU(4, 6, generator=_generator())
    x = torch.zeros(2, 3, 1, 5)
    x[0, 1, 0, 2] = torch.nan
    start = torch.zeros(2, 3, dtype=torch.bool)
    y = layer(x, relu=True)
    h = gru(y, start)
    assert y[0, 1].isnan().all()
    assert h[0, 1:].isnan().all()
    assert not h[1].isnan().any()
    h.sum().backward()
    assert gru.recurrent.weight.grad.isnan().any()


def test_extreme_inputs_saturate():
    gru = GRU(1, 1, generator=_generator())
    with torch.no_grad():
        for p in gru.parameters():
            p.fill_(1.0)
    x = torch.tensor([1e30, -1e30, 200.0, -200.0]).reshape(4, 1, 1, 1)
    start = torch.zeros(4, 1, dtype=torch.bool)
    reference = gru_sequence(gru.input._torch(x), _Torch(gru.recurrent), start)
    torch.testing.assert_close(gru(x, start), reference)


def test_loading_leaves_denormals_alone():
    tiny = torch.tensor([1e-40])
    assert (tiny * 0.5).item() > 0


@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("agent_ids", [False, True])
def test_agent_inputs_equal_their_torch_form(last_action, agent_ids):
    from marl.types import Discrete, EnvSpec

    spec = EnvSpec(
        name="test", agents=("a", "b"), agent_types=("x", "x"), obs_size=3, state_size=2,
        action_spaces=(Discrete(n=4),) * 2, episode_limit=5,
    )  # fmt: skip
    config = qmix.Config(hidden=8, last_action=last_action, agent_ids=agent_ids)
    net = RecurrentQ(spec, config, _generator())
    obs = torch.randn(6, 5, 2, 3, generator=_generator(1))
    last = torch.randint(-1, 4, (6, 5, 2), generator=_generator(2))
    native_rows = net.inputs(obs, last)
    torch_rows = net.inputs(obs.clone().requires_grad_(), last)
    assert torch_rows.requires_grad
    assert torch.equal(native_rows, torch_rows)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_equals_its_torch_form(epsilon):
    g = _generator()
    avail = torch.rand(500, 3, 7, generator=g) < 0.5
    avail.scatter_(-1, torch.randint(7, (500, 3, 1), generator=g), True)
    q = torch.randint(-3, 3, (500, 3, 7), generator=g).float()  # many ties: both take the first
    rng = Rng(1).stream("act", 500)
    assert torch.equal(
        kernels.epsilon_greedy(q, avail, rng.key_B, epsilon), epsilon_greedy_torch(q, avail, rng, epsilon)
    )


def test_double_q_actions_equal_the_torch_form():
    g = _generator()
    avail = torch.rand(4, 9, 3, 5, generator=g) < 0.5
    avail[0, 8] = False  # padding offers nothing; any action will do
    q = torch.randint(-3, 3, (4, 9, 3, 5), generator=g).float()
    expected = q.masked_fill(~avail, -torch.inf).argmax(-1)
    assert torch.equal(double_q_actions(q, avail), expected)


@pytest.mark.parametrize("values", [1, 3])
def test_lambda_returns_equal_the_torch_form(values):
    g = _generator()
    reward, value = (torch.randn(8, 20, values, generator=g) for _ in range(2))
    terminated, filled = (torch.rand(8, 20, generator=g) < p for p in (0.2, 0.7))
    reward = torch.where(filled[..., None], reward, torch.nan)
    options = {"gamma": 0.9, "trace": 0.7}
    ours = lambda_returns(reward, value, terminated, filled, **options)
    reference = lambda_returns_torch(reward, value, terminated, filled, **options)
    torch.testing.assert_close(ours[:, :-1][filled[:, :-1]], reference[:, :-1][filled[:, :-1]])


def test_without_a_compiler_the_torch_forms_serve(monkeypatch):
    def load(*_):
        raise native.NoCompiler("none")

    gru, layer = GRU(5, 8, generator=_generator()), linear(8, 3, generator=_generator())
    x, start = torch.randn(2, 4, 3, 5, generator=_generator(1)), torch.zeros(2, 4, dtype=torch.bool)
    expected = layer(gru(x, start))
    kernels._functions.cache_clear()
    monkeypatch.setattr(native, "load", load)
    try:
        assert not kernels.usable(x)
        torch.testing.assert_close(layer(gru(x, start)), expected, rtol=1e-5, atol=1e-6)
        with _threads(2), kernels.alone():
            assert torch.get_num_threads() == 2  # nothing to make room for
    finally:
        monkeypatch.undo()
        kernels._functions.cache_clear()


@pytest.mark.parametrize(
    ("variable", "words"), [("CXX", "cannot be run"), ("MARL_CACHE", "cannot be used .*set MARL_CACHE")]
)
def test_a_compiler_or_cache_that_does_not_work_is_a_sentence(monkeypatch, tmp_path, variable, words):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CXX", "true")  # needs no compiler: it is never asked to build
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    native.load.cache_clear()
    try:
        with pytest.raises(native.NoCompiler, match=f"{words}.*; the slower torch form is used"):
            native.load(kernels._FOLDER / "acting.cpp", native.FAST)
    finally:
        native.load.cache_clear()


def test_alone_gives_the_kernels_torchs_threads():
    with _threads(2):
        with kernels.alone():
            assert (torch.get_num_threads(), kernels.threads()) == (1, 2)
        assert (torch.get_num_threads(), kernels.threads()) == (2, 2)


def test_a_source_is_built_by_one_of_those_who_want_it(tmp_path, monkeypatch):
    """The compiler is a stand-in that notes each build and hands out a library that is there already."""
    library = next(native.cache_folder().glob("adam-*.so"))
    compiler, log = tmp_path / "compiler", tmp_path / "builds"
    compiler.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit 0\n"
        f"sleep 0.2; echo build >> {log}; while [ $1 != -o ]; do shift; done; cp {library} $2\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("MARL_CACHE", str(tmp_path / "cache"))
    source = Path(native.__file__).with_name("adam.cpp")
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(native.load.__wrapped__, [source] * 3))
    assert all(hasattr(each, "marl_adam") for each in made)
    assert log.read_text() == "build\n"
