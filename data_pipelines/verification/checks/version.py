"""Whether this is the dataset that its name says."""

from collections.abc import Iterator

from data_pipelines.discovery import dataset_files, specs
from data_pipelines.spec import NO_VERSION, DatasetSpec
from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject, missing_features

MOST_NAMED = 4
"""Of a SPEC whose dataset was not released, or without one."""
ADVICE = {
    "bridge": "bridge/0.1.0 of Open X-Embodiment is the old recording: one camera, actions as a dictionary; for "
    "BridgeData V2 fetch bridge_dataset/1.0.0 from the authors' server (OpenVLA calls it bridge_orig)",
    "bridge_dataset": "bridge_dataset/1.0.0 is BridgeData V2 of the authors' server: image_0 to image_3, actions of "
    "seven numbers; OpenVLA calls the same files bridge_orig",
    "bridge_orig": "bridge_orig is OpenVLA's name of bridge_dataset/1.0.0, BridgeData V2 of the authors' server",
    "bridge_data_v2": "bridge_data_v2/0.0.1 is TFDS's build of BridgeData V2, with the tree of bridge_dataset/1.0.0",
    "bridge_data_msr": "bridge_data_msr/0.0.1 is Microsoft's small addition to Bridge: three cameras and depth",
}


class VersionMismatch(Check):
    """dataset_info.json names another version than the SPEC; or features.json lacks numbers that the SPEC reads (then
    it says whose features these are: four builds are called Bridge); or a record lacks, or has in another shape,
    what features.json declares; or `standardize` cannot read it. Statistics, conventions and published results are of
    one version: openvla#9, octo#81.
    """

    code, severity = "version_mismatch", "error"

    def __init__(self) -> None:
        self._unreadable: Finding | None = None

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        directory, spec = subject.directory, subject.spec
        if spec is None:
            return
        if spec.version not in (directory.version, NO_VERSION):
            yield self.finding(
                f"dataset_info.json says version {directory.version}, datasets/ knows {spec.name} {spec.version}; "
                f"{self._advice(spec, subject)}"
            )
        if missing := subject.missing["numbers"]:
            yield self.finding(
                f"features.json has no number {', '.join(missing)} of {spec.name} {spec.version}; "
                f"{self._advice(spec, subject)}"
            )

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for problem in episode.problems:
            yield self.at(episode, problem)
        _ = episode.standardized
        if error := episode.standardize_error:
            self._unreadable = self._unreadable or self.at(episode, f"standardize cannot read it: {error}")

    def merge(self, other: "VersionMismatch") -> None:
        self._unreadable = self._unreadable or other._unreadable

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        if self._unreadable is not None:
            yield self._unreadable

    def _advice(self, spec: DatasetSpec, subject: Subject) -> str:
        found = matching_datasets(subject)
        advice = [ADVICE[name] for name in (spec.name, *found) if name in ADVICE]
        if found and spec.name not in found:
            return "; ".join([f"the features are those of {', '.join(found[:MOST_NAMED])}", *advice])
        return "; ".join(["fetch that version, or add a SPEC of this one", *advice])


def matching_datasets(subject: Subject) -> list[str]:
    """Names of datasets all of whose keys features.json has, those with the most keys first."""
    found = []
    for file in dataset_files().values():
        for spec in specs(file):
            keys = {*spec.numbers, *spec.cameras.values(), *spec.languages}
            if spec.is_verified and not any(missing_features(spec, subject.directory.features).values()):
                found.append((spec.version != subject.directory.version, -len(keys), spec.name))
    return [name for *_, name in sorted(found)]
