import pytest
import torch

from agents.learning.values import Targets, ValueHead, explained_variance, whitened


def targets(values: list[float], advantages: list[float], returns: list[float]) -> Targets:
    """A sample whose first token is not written."""
    trained = torch.tensor([False, *[True] * len(values)])
    rows = [torch.tensor([9.0, *row]) for row in (values, advantages, returns)]
    return Targets(trained, *rows)


def test_a_value_is_of_the_state_before_its_token() -> None:
    head = ValueHead(4)
    torch.nn.init.ones_(head.linear.weight)
    hidden = torch.zeros(1, 3, 4)
    hidden[0, 1] = torch.tensor([1.0, 2.0, 3.0, 40.0])
    head.norm.bias.data.fill_(0.5)
    # The bias of the norm adds 4 x 0.5; what the norm leaves of any state sums to 0.
    assert head(hidden)[0].tolist() == pytest.approx([0.0, 2.0, 2.0], abs=1e-4)
    head.norm.weight.data = torch.tensor([0.0, 0.0, 0.0, 1.0])
    first, second, third = head(hidden)[0].tolist()
    assert (first, second) == (0.0, 2.0) and third > 3.0


def test_values_begin_at_zero_for_any_state_and_type() -> None:
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    values = ValueHead(8)(hidden)
    assert values.dtype == torch.float32 and not values.any()


def test_advantages_are_whitened_over_the_whole_batch() -> None:
    samples = [targets([0.0], [1.0], [0.0]), targets([0.0, 0.0], [2.0, 6.0], [0.0, 0.0])]
    one, other = whitened(samples, process=0)
    # 1, 2 and 6: their mean is 3, their variance (4 + 1 + 9) / 2 = 7; what is not written counts 0.
    assert one.advantages.tolist() == pytest.approx([0.0, -2 / 7**0.5])
    assert other.advantages.tolist() == pytest.approx([0.0, -1 / 7**0.5, 3 / 7**0.5])
    assert torch.equal(one.returns, samples[0].returns)


def test_nothing_is_whitened_into_nothing() -> None:
    assert whitened([], process=0) == [] and explained_variance([]) == 0.0


def test_explained_variance_is_1_for_the_returns_themselves_and_0_for_a_constant() -> None:
    def explained(values: list[float], returns: list[float]) -> float:
        return explained_variance([targets(values, returns, returns)])

    assert explained([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    assert explained([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]) == pytest.approx(0.0, abs=1e-6)
    assert explained([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(-3.0)
    assert explained([1.0, 2.0], [4.0, 4.0]) == 0.0
