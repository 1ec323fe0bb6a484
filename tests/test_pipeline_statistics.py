from __future__ import annotations

from math import comb, log, sqrt

import numpy as np
import numpy.typing as npt
import pytest

from understudy.pipeline.statistics import (
    Interval,
    holm,
    mcnemar,
    ratio,
    resampled_sums,
    root_bootstrap,
    score_interval,
    share,
    sign_flip,
    tango,
)


def pairs(wins: int, losses: int, rows: int) -> tuple[list[bool], list[bool]]:
    """Answers of student and teacher with so many rows that only one of them has right."""
    both = rows - wins - losses
    student = [True] * wins + [False] * losses + [True] * both
    teacher = [False] * wins + [True] * losses + [True] * both
    return student, teacher


def paired_difference(student: npt.ArrayLike, teacher: npt.ArrayLike, level: float = 0.9) -> Interval:
    ours, theirs = np.asarray(student, bool), np.asarray(teacher, bool)
    return tango(int((ours & ~theirs).sum()), int((~ours & theirs).sum()), len(ours), level)


def slow_tango(wins: int, losses: int, rows: int, step: float = 1e-3) -> tuple[float, float]:
    """The same interval by trying every difference and, for each, every share of losses."""
    z = 1.6448536269514722
    inside = []
    for delta in np.arange(-1 + step, 1 - step / 2, step):
        loss_shares = np.linspace(max(0.0, -delta), (1 - delta) / 2, 20_003)[1:-1]
        likelihood = (rows - wins - losses) * np.log1p(-2 * loss_shares - delta)
        if wins:
            likelihood = likelihood + wins * np.log(loss_shares + delta)
        if losses:
            likelihood = likelihood + losses * np.log(loss_shares)
        loss_share = loss_shares[np.argmax(likelihood)]
        variance = rows * (2 * loss_share + delta * (1 - delta))
        if abs(wins - losses - rows * delta) <= z * sqrt(variance):
            inside.append(100 * delta)
    return inside[0], inside[-1]


def chance(wins: int, losses: int, rows: int, discordance: float, delta: float) -> float:
    """Probability of these counts where the two differ on such a share of rows, delta of it net."""
    p, q = (discordance + delta) / 2, (discordance - delta) / 2
    if (wins and p <= 0) or (losses and q <= 0):
        return 0.0
    ways = log(comb(rows, wins)) + log(comb(rows - wins, losses))
    exponent = (rows - wins - losses) * log(1 - discordance) + ways
    return float(np.exp(exponent + (wins * log(p) if wins else 0) + (losses * log(q) if losses else 0)))


@pytest.mark.parametrize(
    ("wins", "losses", "rows"), [(0, 0, 30), (3, 0, 12), (0, 7, 50), (4, 9, 60), (12, 2, 40), (10, 10, 20)]
)
def test_tango_agrees_with_trying_every_difference(wins: int, losses: int, rows: int):
    low, high = slow_tango(wins, losses, rows)

    interval = paired_difference(*pairs(wins, losses, rows))

    assert interval.low == pytest.approx(low, abs=0.11)
    assert interval.high == pytest.approx(high, abs=0.11)


def test_tango_agrees_with_the_published_example():
    # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875: 1 and 7 of 21 pairs differ
    interval = paired_difference(*pairs(1, 7, 21), level=0.95)

    assert (round(interval.low, 1), round(interval.high, 1)) == (-51.7, -2.6)


@pytest.mark.parametrize("rows", [1, 2, 19, 400])
def test_models_that_never_differ_are_equal_up_to_what_so_few_rows_can_show(rows: int):
    interval = paired_difference(*pairs(0, 0, rows))

    bound = 100 * 1.6448536**2 / (rows + 1.6448536**2)
    assert (interval.value, interval.low, interval.high) == (0, pytest.approx(-bound), pytest.approx(bound))


def test_models_that_always_differ_stay_within_the_scale():
    assert paired_difference(*pairs(30, 0, 30)).high == 100
    assert paired_difference(*pairs(0, 30, 30)).low == -100
    assert 0 < paired_difference(*pairs(30, 0, 30)).low < 100


def test_tango_is_ordered_bounded_and_symmetric_for_every_small_table():
    for rows in (1, 2, 3, 7, 12):
        for wins in range(rows + 1):
            for losses in range(rows + 1 - wins):
                there, back = tango(wins, losses, rows), tango(losses, wins, rows)
                assert -100 <= there.low <= there.value <= there.high <= 100
                assert back == Interval(-there.value, -there.high, -there.low)


@pytest.mark.parametrize("rows", [50, 200])
@pytest.mark.parametrize("discordance", [0.05, 0.10, 0.15])
def test_a_student_at_the_margin_passes_once_in_twenty(rows: int, discordance: float):
    for margin in (0.02, 0.05):
        passed = 0.0
        for wins in range(41):
            for losses in range(41 - wins):
                weight = chance(wins, losses, rows, discordance, -margin)
                if weight > 1e-7 and tango(wins, losses, rows).low > -100 * margin:
                    passed += weight

        assert passed <= 0.065


@pytest.mark.parametrize(("discordance", "delta"), [(0.05, 0.0), (0.05, -0.02), (0.10, -0.02), (0.15, -0.05)])
def test_nine_intervals_in_ten_hold_the_true_difference(discordance: float, delta: float):
    covered = total = 0.0
    for wins in range(61):
        for losses in range(61 - wins):
            weight = chance(wins, losses, 200, discordance, delta)
            if weight > 1e-7:
                interval = tango(wins, losses, 200)
                covered += weight * (interval.low <= 100 * delta <= interval.high)
                total += weight

    assert total == pytest.approx(1, abs=1e-4)
    assert 0.88 <= covered <= 0.925


def test_simulated_students_at_the_margin_pass_once_in_twenty():
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(2000):
        drawn = random.choice([1, -1, 0], 200, p=[0.04, 0.06, 0.9])
        passed += paired_difference(drawn >= 0, drawn <= 0).low > -2

    assert passed / 2000 <= 0.065


def test_answers_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 rows of one model against 3 of the other"):
        mcnemar([True, False], [True, False, True])


def test_a_share_agrees_with_scipy_and_stays_within_the_scale():
    from scipy.stats import binomtest

    for hits, rows in ((0, 5), (5, 5), (1, 1), (37, 40), (3000, 3080)):
        expected = binomtest(hits, rows).proportion_ci(0.9, method="wilson")
        interval = share(hits, rows)
        assert interval.low == pytest.approx(100 * expected.low)
        assert interval.high == pytest.approx(100 * expected.high)
        assert 0 <= interval.low <= interval.value <= interval.high <= 100


def test_nothing_is_known_without_rows():
    assert share(0, 0) == Interval(0, 0, 100)
    assert paired_difference([], []) == root_bootstrap([], []) == Interval(0, -100, 100)


def test_rows_of_one_root_are_worth_one_row():
    random = np.random.default_rng(0)
    per_root = random.normal(0, 0.2, 60)
    repeated = np.repeat(per_root, 10)

    once = root_bootstrap(per_root, list(range(60)))
    together = root_bootstrap(repeated, [row // 10 for row in range(600)])
    apart = root_bootstrap(repeated, list(range(600)))

    assert together.low == pytest.approx(once.low)
    assert together.high == pytest.approx(once.high)
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_roots():
    values = np.random.default_rng(0).normal(0.01, 0.2, 3000)
    half = 164.485 * values.std() / sqrt(3000)

    interval = root_bootstrap(values, list(range(3000)))

    assert interval.low == pytest.approx(interval.value - half, abs=0.03)
    assert interval.high == pytest.approx(interval.value + half, abs=0.03)


def test_the_bootstrap_repeats_itself_and_follows_its_seed():
    values, roots = np.random.default_rng(1).normal(0, 0.3, 40), [f"r{row}" for row in range(40)]

    assert root_bootstrap(values, roots) == root_bootstrap(values, roots)
    assert root_bootstrap(values, roots) != root_bootstrap(values, roots, seed=1)


def test_a_root_of_many_rows_weighs_as_many():
    interval = root_bootstrap([1.0] * 90 + [0.0] * 10, ["big"] * 90 + [f"r{row}" for row in range(10)])

    assert interval.value == 90
    assert interval.low == 0


@pytest.mark.parametrize("rows", [1, 30])
def test_equal_rows_leave_the_bootstrap_without_width(rows: int):
    assert root_bootstrap([0.5] * rows, list(range(rows))) == Interval(50, 50, 50)


def test_mcnemar_counts_only_rows_that_differ():
    assert mcnemar(*pairs(0, 0, 50)) == 1
    assert mcnemar(*pairs(1, 9, 50)) == mcnemar(*pairs(1, 9, 5000)) == pytest.approx(22 / 1024)


def test_a_ratio_is_drawn_with_both_sides_together():
    random = np.random.default_rng(0)
    teacher = random.random(2000) < 0.9
    student = teacher & (random.random(2000) < 0.97)
    roots = list(range(2000))

    kept = ratio(student, teacher, roots)

    assert kept is not None
    assert kept.value == pytest.approx(100 * student.sum() / teacher.sum())
    assert kept.low < kept.value < kept.high
    assert kept.high - kept.low < 2, "drawn apart, the two would be 3 points wide"


def test_a_share_of_nothing_is_not_told():
    assert ratio([0, 0, 1], [1, 0, -1], ["a", "b", "c"]) is None
    assert ratio([], [], []) is None


def test_nine_ratios_in_ten_hold_the_true_one():
    random = np.random.default_rng(1)
    held = 0
    for trial in range(400):
        teacher = random.random(300) < 0.9
        student = np.where(random.random(300) < 0.9, teacher, random.random(300) < 0.6)
        kept = ratio(student, teacher, list(range(300)), resamples=1000, seed=trial)
        held += kept is not None and kept.low <= 100 * (0.9 * 0.9 + 0.1 * 0.6) / 0.9 <= kept.high

    assert 0.86 <= held / 400 <= 0.94


def test_drawing_kinds_of_roots_is_drawing_roots():
    random = np.random.default_rng(2)
    few = random.integers(0, 2, (5000, 2)).astype(float)
    many = few + random.random((5000, 2)) * 1e-9

    kinds, roots = resampled_sums(few, 4000), resampled_sums(many, 4000)

    assert kinds.shape == roots.shape == (4000, 2)
    assert kinds.mean(0) == pytest.approx(roots.mean(0), rel=2e-3)
    assert kinds.std(0) == pytest.approx(roots.std(0), rel=0.06)
    assert np.cov(kinds.T)[0, 1] == pytest.approx(np.cov(roots.T)[0, 1], abs=0.05 * kinds.var())


def test_flipped_signs_agree_with_mcnemar_where_both_hold():
    student, teacher = pairs(4, 18, 200)

    flipped = sign_flip(np.subtract(student, teacher, dtype=float), list(range(200)))

    assert flipped == pytest.approx(mcnemar(student, teacher), abs=0.003)
    assert sign_flip([0.0] * 30, list(range(30))) == 1


def test_signs_are_flipped_for_whole_roots():
    difference = np.repeat([0.1, -0.02, 0.06], 100)

    assert sign_flip(difference, [row // 100 for row in range(300)]) > 0.2
    assert sign_flip(difference, list(range(300))) < 0.001


def test_many_comparisons_ask_for_more():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_score_has_wilsons_interval_only_where_rows_are_right_or_wrong_and_stand_alone():
    hits = [1.0] * 90 + [0.0] * 10

    assert score_interval(hits, list(range(100)), graded=False) == share(90, 100)
    together = score_interval(hits, [row // 10 for row in range(100)], graded=False)
    assert together.high - together.low > 2 * (share(90, 100).high - share(90, 100).low)
    assert score_interval(np.array(hits) / 2, list(range(100)), graded=True).value == 45
