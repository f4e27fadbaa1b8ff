"""Whole video files through the reader and the writer."""

import cv2

from engine.video.frames import VideoFile, frame_count
from engine.video.writing import write_video


def read_frames(path):
    return iter(VideoFile(path))


def num_frames(path):
    """The number of frames according to the container; 0 if unknown."""
    capture = cv2.VideoCapture(str(path))
    count = frame_count(capture)
    capture.release()
    return count


def map_video(source, target, draw, on_frame):
    video = VideoFile(source)
    return write_video(video, target, draw, on_frame, rate=video.rate)
