"""Other tools' formats: NIR and StableHLO."""
