"""What ONNX Runtime's profiler says of operators."""

from packlight.targets.onnx_profile import read


def event(name: str, index: str, micros: int, cat: str = "Node") -> dict:
    return {"cat": cat, "name": name, "dur": micros, "args": {"node_index": index, "op_name": "Conv"}}


def test_operators_keep_their_names_and_the_first_runs_do_not_count():
    runs = [event("stem.2_nchwc_kernel_time", "7", t) for t in (900, 800, 700, 20, 22, 21)]
    runs += [event("add_1_kernel_time", "8", 5), event("head_token_11_kernel_time", "9", 4)]
    runs += [event("head_token_12_kernel_time", "10", 6), event("model_run", "0", 999, "Session")]
    taken = read(runs)
    assert {name: round(1e6 * s) for name, s in taken.items()} == {"stem.2": 21, "add_1": 5, "head": 10}
