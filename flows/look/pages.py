"""The pages: each method answers the addresses of one kind."""

from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment
from pydantic import BaseModel

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ArtifactError, DeepClusterError
from deepcluster_core.report.environment import templates_of
from flows.look.contents import EpochContents, RunContents, UnknownPageError
from flows.look.facts import facts_of, similar
from flows.look.finding import find
from flows.look.moves import images_of_flow, moves
from flows.look.orders import (
    OutlierScores,
    Scoring,
    cluster_orders,
    image_orders,
    ordered_clusters,
    ordered_members,
)
from flows.look.pictures import MEDIA_TYPE, png_of
from flows.look.showing import Paging, shown_cluster, shown_image, shown_images
from flows.look.take_out import TakeOut, Ticked
from stages.runs.cluster_names import name_cluster

CLUSTERS = 60
"""Clusters on a page."""
IMAGES = 200
"""Images on a page. Browsers load those alone that come into sight."""
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""For pictures, whose addresses name the contents."""
NEVER = {"Cache-Control": "no-store"}


class Naming(BaseModel):
    """The new name of a cluster; an empty one removes the name."""

    name: str


class Pages:
    """Answers requests about a run. Methods run in several threads at once."""

    def __init__(self, run: RunContents, take_out: TakeOut) -> None:
        self.run = run
        self.outliers = OutlierScores()
        self._take_out = take_out

    def start(self) -> Response:
        """Redirect to the clusters of the epoch that the command names, or of the last one."""
        return RedirectResponse(f"/epoch/{self.run.first_shown}/", status_code=303)

    def another_epoch(self, epoch: int) -> Response:
        """Redirect to the clusters of an epoch that was chosen."""
        return RedirectResponse(f"/epoch/{epoch}/", status_code=303)

    def clusters(
        self, epoch: int, order: str = "largest", page: int = 1, *, fragment: bool = False
    ) -> Response:
        """Show all clusters as cards."""
        run, contents = self.run, self.run.at(epoch)
        found = ordered_clusters(run, contents, order)
        paging = Paging.of(len(found), CLUSTERS, page, order=order)
        return self._page(
            "clusters",
            contents,
            cards=[shown_cluster(run, contents, cluster) for cluster in found[paging.part]],
            paging=paging,
            fragment=fragment,
            num_empty=contents.num_clusters - len(found),
            has_stability=contents.stability is not None,
            orders=cluster_orders(run, contents),
            order=order,
        )

    def cluster(
        self,
        epoch: int,
        cluster: int,
        order: str = "near",
        page: int = 1,
        *,
        fragment: bool = False,
    ) -> Response:
        """Show the images of a cluster, page by page."""
        run, contents = self.run, self.run.at(epoch)
        found = ordered_members(contents, cluster, order, self.outliers)
        scoring = found if isinstance(found, Scoring) else None
        # While outlier scores are computed, the nearest images are shown.
        image_ids = contents.members(cluster) if isinstance(found, Scoring) else found
        paging = Paging.of(len(image_ids), IMAGES, page, order=order)
        return self._page(
            "cluster",
            contents,
            shown=shown_cluster(run, contents, cluster),
            tiles=shown_images(run, image_ids[paging.part].tolist()),
            paging=paging,
            fragment=fragment,
            scoring=scoring,
            orders=image_orders(contents),
            order=order,
        )

    def image(
        self, epoch: int, image_id: int, page: int = 1, *, fragment: bool = False
    ) -> Response:
        """Show an image, its facts, and those most similar to it."""
        run, contents = self.run, self.run.at(epoch)
        run.check_image(image_id)
        cluster = int(contents.labels.cluster_N[image_id])
        members = contents.members(cluster)
        place = int(np.flatnonzero(members == image_id)[0])
        alike = similar(run, contents, image_id, page)
        history, history_lacks = self._history(image_id)
        return self._page(
            "image",
            contents,
            shown=shown_image(run, image_id),
            cluster=cluster,
            facts=facts_of(run, contents, image_id, alike.outlier),
            second=alike.second_cluster,
            history=history,
            history_lacks=history_lacks,
            previous=int(members[place - 1]) if place > 0 else None,
            next=int(members[place + 1]) if place + 1 < len(members) else None,
            tiles=alike.images,
            paging=alike.paging,
            fragment=fragment,
            neighbours_lack=alike.lacks,
            neighbours_remark=contents.facts.remark,
        )

    def _history(self, image_id: int) -> tuple[list[tuple[int, int]], str | None]:
        try:
            return self.run.history(image_id), None
        except ArtifactError as error:  # labels were deleted since the server started
            return [], str(error)

    def search(self, epoch: int, q: str = "", page: int = 1, *, fragment: bool = False) -> Response:
        """Show the clusters, classes and images that match a text."""
        run, contents = self.run, self.run.at(epoch)
        found = find(run, contents, q)
        paging = Paging.of(len(found.images), IMAGES, page, q=q)
        return self._page(
            "search",
            contents,
            wanted=q,
            found=found,
            cards=[shown_cluster(run, contents, one) for one in found.clusters[:CLUSTERS]],
            tiles=shown_images(run, found.images[paging.part]),
            paging=paging,
            fragment=fragment,
        )

    def moves(
        self, epoch: int, since: int | None = None, page: int = 1, *, fragment: bool = False
    ) -> Response:
        """Show which images moved between two epochs."""
        run, contents = self.run, self.run.at(epoch)
        if since is None:
            since = self._epoch_beside(epoch)
        before = run.at(since)
        found = moves(before, contents)
        paging = Paging.of(len(found.flows), CLUSTERS, page, since=str(since))
        flows = found.flows[paging.part]
        return self._page(
            "moves",
            contents,
            since=since,
            found=found,
            flows=[(flow, shown_images(run, flow.samples)) for flow in flows],
            names_before=before.names(),
            paging=paging,
            fragment=fragment,
        )

    def _epoch_beside(self, epoch: int) -> int:
        """Return the epoch before, or the next one for the first."""
        epochs = self.run.epochs
        if len(epochs) < 2:
            raise UnknownPageError("This run has labels of one epoch only, so nothing moved.")
        place = epochs.index(epoch)
        return epochs[place - 1 if place > 0 else 1]

    def flow(
        self,
        epoch: int,
        since: int,
        before: int,
        after: int,
        page: int = 1,
        *,
        fragment: bool = False,
    ) -> Response:
        """Show the images that were in one cluster and are in another."""
        run, contents, earlier = self.run, self.run.at(epoch), self.run.at(since)
        image_ids = images_of_flow(earlier, contents, before, after)
        paging = Paging.of(len(image_ids), IMAGES, page)
        return self._page(
            "flow",
            contents,
            since=since,
            before=before,
            after=after,
            names_before=earlier.names(),
            tiles=shown_images(run, image_ids[paging.part]),
            paging=paging,
            fragment=fragment,
        )

    def picture(self, version: str, image_id: int) -> Response:
        """Send an image at its packed size."""
        if version != self.run.picture_version:
            raise UnknownPageError("This picture belongs to another run: reload the page.")
        self.run.check_image(image_id)
        png = png_of(self.run.images.verified(image_id))
        return Response(png, media_type=MEDIA_TYPE, headers=FOREVER)

    def name(self, epoch: int, cluster: int, naming: Naming) -> Response:
        """Give a cluster a name, at once in the file of the run."""
        contents = self.run.at(epoch)
        folder = self.run.past.folder
        name_cluster(folder, epoch=epoch, cluster=cluster, name=naming.name)
        named = contents.names().get(cluster)
        return JSONResponse({"name": "" if named is None else named.name}, headers=NEVER)

    def take_out(self, epoch: int, ticked: Ticked) -> Response:
        """Send ticked images as a table or list, or copy them into a new folder."""
        contents = self.run.at(epoch)
        image_ids = self._take_out.image_ids(contents, ticked)
        if ticked.form == "folder":
            message = self._take_out.copy(contents, image_ids, ticked.folder)
            return JSONResponse({"message": message}, headers=NEVER)
        if ticked.form == "csv":
            text, media_type = self._take_out.table(contents, image_ids), "text/csv"
        else:
            text, media_type = self._take_out.paths(image_ids), "text/plain"
        # Names of files need not be valid Unicode.
        data = text.encode("utf-8", "surrogateescape")
        return Response(data, media_type=media_type, headers=NEVER)

    def style(self) -> Response:
        """Send the style sheet: that of the report, and what the pages have besides."""
        return Response(_style(), media_type="text/css", headers=NEVER)

    def script(self) -> Response:
        """Send the script of all pages."""
        return _javascript("look.js")

    def list_script(self) -> Response:
        """Send the part of the script that loads lists while one scrolls."""
        return _javascript("list.js")

    def problem(self, request: Request, error: Exception) -> Response:
        """Answer a request that cannot be fulfilled, as a page or for the script."""
        status = 404 if isinstance(error, UnknownPageError) else 409
        if request.method == "POST":
            return JSONResponse({"error": str(error)}, status_code=status)
        if request.url.path.startswith("/picture/"):
            return PlainTextResponse(str(error), status_code=status)
        try:
            contents = self.run.at(self.run.first_shown)
            page = self._page("error", contents, message=str(error))
        except DeepClusterError as other:  # there is nothing left to show around the message
            return PlainTextResponse(f"{other}\n", status_code=status)
        page.status_code = status
        return page

    def invalid(self, request: Request, error: Exception) -> Response:
        """Answer a request whose address or contents are of the wrong kind."""
        return self.problem(
            request, UnknownPageError(f"{request.url.path} is no page of this run.")
        )

    def _page(self, template: str, contents: EpochContents, **shown: Any) -> Response:  # noqa: ANN401
        labels = contents.past.whole("labels", contents.epoch)
        html = (
            _templates()
            .get_template(f"{template}.html.j2")
            .render(
                run=self.run,
                epoch=contents.epoch,
                labels_version=read_manifest(labels).digest[:12],
                names=contents.names(),
                parent=self._take_out.parent,
                **shown,
            )
        )
        return HTMLResponse(html.encode(), headers=NEVER)


@cache
def _templates() -> Environment:
    return templates_of("flows.look")


@cache
def _style() -> str:
    package = resources.files("deepcluster_core.report")
    return (package / "style.css").read_text(encoding="utf-8") + _text("look.css")


def _javascript(name: str) -> Response:
    return Response(_text(name), media_type="text/javascript", headers=NEVER)


def _text(name: str) -> str:
    return (resources.files("flows.look") / name).read_text(encoding="utf-8")
