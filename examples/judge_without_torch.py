"""Judge photos with an exported model: onnxruntime, numpy and OpenCV are all that is needed.

    anomaly export --model models/cap --format onnx --out cap_onnx
    python judge_without_torch.py cap_onnx photos/*.png [--heatmaps FOLDER]

Prints one line of JSON for each photo. Exit code 0: all normal, 10: some are not, 3: some cannot be read.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


class Model:
    def __init__(self, folder: Path) -> None:
        """An exported folder, its graph checked against its checksum."""
        self.facts = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        graph = folder / "detector.onnx"
        if hashlib.sha256(graph.read_bytes()).hexdigest() != self.facts["files"]["detector.onnx"]:
            sys.exit(f"{graph} was changed after it was written: export the model again")
        if self.facts["region_rules"] or self.facts["upright"]:
            sys.exit("its region rules, or turned photos, are judged by `anomaly inspect` alone")
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.calibration = np.array(self.facts["calibration_scores"])

    def part(self, photo: np.ndarray) -> tuple[slice, slice]:
        """What is judged of the photo; `anomaly inspect` also sees what lies beside it on the tray."""
        top, left, bottom, right = self.facts["photo"]["window"] or (0, 0, 1, 1)
        shares = zip((top, left), (bottom, right), photo.shape, strict=False)
        ends = [(min(side - 1, round(low * side)), round(high * side)) for low, high, side in shares]
        rows, columns = (slice(first, max(first + 1, end)) for first, end in ends)
        return rows, columns

    def working(self, photo: np.ndarray) -> np.ndarray:
        """The photo (H, W, 3) at the size that it is judged at: the aspect ratio kept, sides rounded."""
        how = self.facts["photo"]
        scale, unit = how["factor"] or how["image_size"] / max(photo.shape[:2]), how["multiple"]
        height, width = (max(1, round(scale * side / unit)) * unit for side in photo.shape[:2])
        if max(height, width) > how["largest_side"]:
            raise ValueError(f"{width} x {height} px are more than the graph takes ({how['largest_side']})")
        method = cv2.INTER_AREA if height * width < photo[..., 0].size else cv2.INTER_LINEAR
        return cv2.resize(photo, (width, height), interpolation=method)

    def read(self, path: str) -> np.ndarray:
        """The photo as (H, W, 3) uint8 RGB; deep ones divided by the white level of the training photos."""
        photo = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if photo is None:
            raise ValueError("not a photo that can be read")
        if photo.dtype != np.uint8:
            white = self.facts["photo"]["white_level"]
            white = white or (1.0 if photo.dtype.kind == "f" else np.iinfo(photo.dtype).max)
            photo = np.rint(np.clip(photo.astype(np.float32) * (255 / white), 0, 255)).astype(np.uint8)
        return np.ascontiguousarray(photo[:, :, ::-1])

    def judge(self, path: str) -> tuple[dict, np.ndarray | None]:
        """The verdict, and the anomaly map at the photo's own size (H, W) float32."""
        try:
            photo = self.read(path)
            working = self.working(photo[self.part(photo)])
            scores, maps = self.session.run(None, {"photos": working[None]})
        except ValueError as error:
            return {"path": path, "decision": "error", "error": str(error)}, None
        score, threshold = float(scores[0]), self.facts["threshold"]
        review = self.facts["review_threshold"] or threshold
        decision = "anomalous" if not score <= threshold else "review" if score > review else "normal"
        p_value = (1 + int((self.calibration >= score).sum())) / (1 + len(self.calibration))
        verdict = {"path": path, "decision": decision, "image_score": score, "threshold": threshold}
        whole = np.full(photo.shape[:2], maps.min())
        part = whole[self.part(photo)]
        part[:] = cv2.resize(maps[0], part.shape[::-1], interpolation=cv2.INTER_CUBIC)
        return verdict | {"p_value": p_value}, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--heatmaps", type=Path)
    options = parser.parse_args()
    model, decisions = Model(options.export), set()
    for path in options.photos:
        verdict, anomaly_map = model.judge(path)
        decisions.add(verdict["decision"])
        sys.stdout.write(json.dumps(verdict) + "\n")
        if options.heatmaps and anomaly_map is not None:
            options.heatmaps.mkdir(parents=True, exist_ok=True)
            shade = np.clip(anomaly_map / (2 * max(verdict["threshold"], 1e-6)), 0, 1)
            picture = cv2.applyColorMap((255 * shade).astype(np.uint8), cv2.COLORMAP_INFERNO)
            cv2.imwrite(str(options.heatmaps / f"{Path(path).stem}.png"), picture)
    sys.exit(3 if "error" in decisions else 10 if decisions - {"normal"} else 0)


if __name__ == "__main__":
    main()
