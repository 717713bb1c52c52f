"""What the energy page says, by hand."""

from figures import energy as figure_energy
from matplotlib.figure import Figure
from records.energy import energy_section


def test_section_and_figure():
    """Energies by hand: 10 M MACs and 20 M ACs are 46 + 18 = 64 µJ."""
    snn = {"model": "vgg11", "width": 0.25, "num_steps": 4, "test_accuracy": 0.9123, "ann": "ann", "dense_pass": 20e6}
    snn |= {"macs": 10e6, "acs": 20e6, "estimate": [1e6, 20e6]}
    ann = snn | {"num_steps": None, "test_accuracy": None, "macs": 16e6, "acs": 0.0, "estimate": [20e6, 0.0]}
    record = {
        "name": "x",
        "dataset": "cifar10",
        "networks": {"student_baseline": snn | {"ann": None}, "student": snn, "ann": ann},
        "config": {"dataset": "cifar10", "preset": "kdsnn"},
        "mac_pj": 4.6,
        "ac_pj": 0.9,
        "images": 1000,
        "command": "snnkd energy RUN",
        "run_command": "python a",
        "ann_command": "python b",
        "hardware": "2 x Somebody's",
        "versions": {"jax": "0.10.2"},
    }
    rows = energy_section([record]).splitlines()[4:7]
    name, numbers = "| cifar10 | vgg11, width 0.25,", "| 10.0 | 20.0 | 64.0 |"
    assert rows == [
        f"{name} student without KD | 4 | 91.23 {numbers} – | 22.6 | 0.25 |",
        f"{name} student, kdsnn | 4 | 91.23 {numbers} 0.87 | 22.6 | 0.25 |",
        f"{name} ANN | – | – | 16.0 | 0 | 73.6 | 1.00 | 92.0 | 1.00 |",
    ]
    assert "4.6 pJ a MAC and 0.9 pJ an AC" in energy_section([record])
    assert "definition, 1 of the 1 spiking networks" in energy_section([record])
    costly = record | {"networks": record["networks"] | {"ann": ann | {"macs": 13e6}}}
    assert "definition, 0 of the 1 spiking networks" in energy_section([costly])
    assert energy_section([]) == ""
    axes = Figure().subplots()
    figure_energy.draw_bars(axes, record)
    macs, acs = ([round(bar.get_width(), 3) for bar in bars] for bars in axes.containers)
    assert (macs, acs) == ([73.6, 46.0, 46.0], [0.0, 18.0, 18.0])
    assert [label.get_text() for label in axes.texts] == [" 73.6", " 64", " 64"]
    assert (
        "student without KD | 4"
        in energy_section([record | {"config": {"dataset": "cifar10", "preset": "none"}}]).splitlines()[5]
    )
