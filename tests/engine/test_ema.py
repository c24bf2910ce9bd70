from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nnunet_ssl.engine.ema import PairedTensors, decay_of_run, ema_decay_at, ema_update, ema_update_tensors


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def test_the_decay_warms_up_as_a_plain_mean_and_then_stays_at_its_limit():
    assert [ema_decay_at(step, 0.99) for step in (0, 1, 3)] == [0.0, 0.5, 0.75]
    assert ema_decay_at(98, 0.99) < 0.99
    assert ema_decay_at(99, 0.99) == ema_decay_at(100, 0.99) == ema_decay_at(10**6, 0.99) == 0.99
    assert ema_decay_at(5, 0.0) == 0.0


def test_during_the_warm_up_the_teacher_is_the_mean_of_all_students():
    students = torch.randn(20, 7, dtype=torch.float64)
    teacher = torch.full((7,), 1e6, dtype=torch.float64)
    for step, student in enumerate(students):
        ema_update_tensors([teacher], [student], ema_decay_at(step, 0.99))
    torch.testing.assert_close(teacher, students.mean(0))


def test_one_update_moves_by_one_minus_decay_of_the_way():
    teacher, student = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([2.0, -2.0, 1.0])
    ema_update_tensors([teacher], [student], 0.75)
    assert teacher.tolist() == [1.25, -2.0, 4.0]
    assert student.tolist() == [2.0, -2.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_decay_zero_copies_exactly_decay_one_changes_nothing_and_equality_stays(dtype):
    start, student = torch.randn(1000).to(dtype), torch.randn(1000).to(dtype)
    teacher = start.clone()
    ema_update_tensors([teacher], [student], 1.0)
    assert torch.equal(teacher, start)
    ema_update_tensors([teacher], [student], 0.0)
    assert torch.equal(teacher, student)
    for _ in range(50):
        ema_update_tensors([teacher], [student], 0.99)
    assert torch.equal(teacher, student)


def test_tensors_of_several_types_are_updated_in_one_call_and_integers_are_copied():
    teacher = [torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.tensor([1, 2]), torch.tensor(False)]
    student = [torch.ones(2), torch.ones(2, dtype=torch.float64), torch.tensor([8, 9]), torch.tensor(True)]
    ema_update_tensors(teacher, student, 0.5)
    assert [t.tolist() for t in teacher] == [[0.5, 0.5], [0.5, 0.5], [8, 9], True]


def test_a_network_follows_with_its_parameters_and_copies_its_buffers():
    teacher, student = network(0), network(1)
    student(torch.randn(4, 1, 8, 8))  # moves the batch statistics
    before = copy.deepcopy(teacher)
    ema_update(teacher, student, 0.9)
    for old, new, of_student in zip(before.parameters(), teacher.parameters(), student.parameters()):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * of_student)
    for new, of_student in zip(teacher.buffers(), student.buffers()):
        assert torch.equal(new, of_student)
    assert teacher[1].num_batches_tracked == 1


def test_an_update_leaves_gradients_and_requires_grad_alone_and_makes_no_graph():
    teacher, student = network(0).requires_grad_(False), network(1)
    student(torch.randn(2, 1, 8, 8)).sum().backward()
    gradients = [p.grad.clone() for p in student.parameters()]
    storage = [p.data_ptr() for p in teacher.parameters()]
    ema_update(teacher, student, 0.5)
    assert all(not p.requires_grad and p.grad_fn is None and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(p.grad, g) and p.requires_grad for p, g in zip(student.parameters(), gradients))
    assert [p.data_ptr() for p in teacher.parameters()] == storage


def test_a_parameter_that_two_modules_share_is_updated_once():
    def shared(value: float) -> nn.Module:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, value)
        return nn.ModuleDict({"encoder": layer, "decoder": nn.ModuleDict({"encoder": layer})})

    teacher = shared(0.0)
    ema_update(teacher, shared(1.0), 0.75)
    assert teacher["encoder"].weight.item() == 0.25


def test_networks_that_differ_are_refused_by_name_before_anything_changes():
    teacher, student = network(0), network(1)
    student[2] = nn.Conv2d(3, 4, 1, bias=False)
    before = copy.deepcopy(teacher.state_dict())
    with pytest.raises(ValueError, match=r"same parameters.*2\.weight \(teacher: \(2, 3, 1, 1\).*2\.bias.*none"):
        ema_update(teacher, student, 0.9)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())

    student = network(1)
    student.register_buffer("extra", torch.zeros(1))
    with pytest.raises(ValueError, match=r"same buffers.*extra"):
        ema_update(teacher, student, 0.9)


@pytest.mark.parametrize(
    "teacher, student, decay, message",
    [
        ([torch.zeros(1)], [], 0.9, "1 tensors, the student 0"),
        ([torch.zeros(2)], [torch.zeros(3)], 0.9, r"\(2,\).*\(3,\)"),
        ([torch.zeros(2)], [torch.zeros(2).double()], 0.9, "float32.*float64"),
        ([torch.zeros(2)], [torch.zeros(2)], 1.1, "1.1"),
        ([torch.zeros(2)], [torch.zeros(2)], -0.1, "-0.1"),
        ([torch.zeros(2)], [torch.zeros(2)], float("nan"), "nan"),
    ],
)
def test_tensors_that_do_not_correspond_and_impossible_decays_are_refused(teacher, student, decay, message):
    with pytest.raises(ValueError, match=message):
        ema_update_tensors(teacher, student, decay)


def test_the_horizon_is_a_share_of_the_run_within_bounds():
    assert decay_of_run(10_000, 100) == pytest.approx(1 - 1 / 100)
    assert decay_of_run(100, 100) == pytest.approx(1 - 1 / 20)
    assert decay_of_run(10**9, 100) == pytest.approx(1 - 1 / 1000)


def test_pairs_that_are_kept_follow_tensors_that_are_replaced_and_give_the_same():
    teacher, student = network(0), network(1)
    other, pairs = copy.deepcopy(teacher), PairedTensors(teacher, student)
    for step in range(3):
        with torch.no_grad():
            student[0].weight += 1
            student[1].running_mean = torch.full((3,), float(step))  # assigned, not written into
            student[2].bias = nn.Parameter(torch.randn(2))
        ema_update(teacher, student, 0.75, pairs)
        ema_update(other, student, 0.75)
        assert all(torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), other.state_dict().values()))
    assert teacher[1].running_mean.tolist() == [2.0] * 3
    assert pairs.are_of(teacher, student) and not pairs.are_of(other, student)
