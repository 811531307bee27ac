"""Long work in a child process of a program with a window, which only polls and never waits.

    folder = jobs.new_folder()
    stem = jobs.write_image(folder, image)
    job = worker.start("segment", {"model": "nuclei-2d", "image": stem}, folder)
    ...                                     # from a timer:
    for event in job.poll():
        if event.kind == "result":
            result = jobs.read_result(folder, event.result)
            job.close()

No torch is imported in the calling process. `Worker` says how jobs run, `mambaseg.jobs.tasks` which there are.
"""

from mambaseg.jobs.folders import new_folder
from mambaseg.jobs.images import read_image, write_image, write_stand_in
from mambaseg.jobs.messages import Event
from mambaseg.jobs.results import Result, read_result
from mambaseg.jobs.worker import Job, Worker

__all__ = ["Event", "Job", "Result", "Worker", "new_folder", "read_image", "read_result", "write_image",
           "write_stand_in"]
