"""Instructions."""

from collections.abc import Iterator

from data_pipelines.index.shard_index import STEPS
from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject


class LanguageMissing(Check):
    """features.json lacks an instruction that the SPEC names, or steps of an episode have no instruction, or one of
    white space, under any of the dataset's language keys. A language-conditioned policy learns there to act without
    being told to. Datasets that never had language are not judged.
    """

    code, severity = "language_missing", "warning"

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        if subject.missing and not subject.missing["numbers"]:  # else the tree is another dataset's
            for key in subject.missing["languages"]:
                yield self.finding(f"features.json has no text {STEPS}{key}, which the SPEC names")

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        given = [episode.texts(key) for key in episode.subject.languages]
        given = [texts for texts in given if len(texts) == episode.num_steps]
        if not given:
            return
        silent = [step for step, texts in enumerate(zip(*given)) if not any(text.strip() for text in texts)]
        if silent:
            yield self.at(episode, f"{len(silent)} of {episode.num_steps} steps have no instruction", silent[0])


class LanguageNotUtf8(Check):
    """A text of an episode is not UTF-8. Decoders of it raise, or replace letters silently. One finding a feature."""

    code, severity = "language_not_utf8", "error"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for key in episode.subject.features("text"):
            checked: set[bytes] = set()
            for step, text in enumerate(episode.texts(key)):
                if text in checked:
                    continue
                checked.add(text)
                try:
                    text.decode()
                except UnicodeDecodeError as error:
                    where = step if key.startswith(STEPS) else None
                    yield self.at(episode, f"{key}: {text[:40]!r}: {error.reason} at byte {error.start}", where)
                    break
