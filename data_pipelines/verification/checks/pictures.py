"""Pictures that cannot be decoded, or show nothing. Of every camera, those that no SPEC names too.

Decoded are `pictures.SAMPLED` of each camera and episode, beside them the one of the fewest bytes and all that lack the
end mark of their format or have less than half the median bytes of their episode; with --all-images, all.
"""

from collections.abc import Iterator

from data_pipelines.index.shard_index import STEPS
from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.pictures import BLACK
from data_pipelines.verification.subject import Subject

FLAG = "episode_metadata/has_"
CAMERA = STEPS + "observation/"


class ImageUndecodable(Check):
    """A picture is neither JPEG nor PNG, is cut, or its code is broken. tf.data stops at it; this project's pipeline
    replaces the sample and counts it. One finding a picture.
    """

    code, severity = "image_undecodable", "error"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for camera, looks in episode.looks.items():
            for look in looks:
                if look.error:
                    yield self.at(episode, f"{camera}: {look.error}", look.step)


class ImageBlack(Check):
    """No channel of any pixel is above 10 of 255. A camera that was not connected is often stored so: a policy that
    is given it learns from nothing, and no mask says so. One finding a camera and episode.
    """

    code, severity = "image_black", "warning"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for camera, looks in episode.looks.items():
            black = [look.step for look in looks if look.is_black]
            if black:
                message = f"{camera}: {len(black)} of {len(looks)} decoded pictures are black (none above {BLACK})"
                yield self.at(episode, message, black[0])


class CameraMissing(Check):
    """features.json lacks a camera that the SPEC names, an episode's record lacks a camera that features.json
    declares, or a picture has 0 bytes (Octo's decoder makes black pictures of those, on purpose and silently).
    """

    code, severity = "camera_missing", "error"

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        if subject.missing and not subject.missing["numbers"]:  # else the tree is another dataset's
            for key in subject.missing["cameras"]:
                yield self.finding(f"features.json has no picture {STEPS}{key}, which the SPEC names")

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for camera in episode.subject.cameras:
            absent = (episode.picture_lengths(camera) == 0).nonzero()[0]
            if len(absent):
                message = f"{camera}: {len(absent)} of {episode.num_steps} steps have no picture"
                yield self.at(episode, message, int(absent[0]))


class CameraFlagFalse(Check):
    """`episode_metadata/has_NAME` is False, though `observation/NAME` of the episode has pictures that are not black.
    Whoever trusts the flag throws good pictures away; this project does not read it.
    """

    code, severity = "camera_flag_false", "info"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        wrong = []
        for camera, looks in episode.looks.items():
            flag = episode.numbers(FLAG + camera.removeprefix(CAMERA))
            seen = any(not look.error and not look.is_black for look in looks)
            if flag is not None and not flag.any() and seen:
                wrong.append(camera.removeprefix(CAMERA))
        if wrong:
            yield self.at(episode, f"has_... is False of {', '.join(wrong)}, but there are pictures")
