"""Backbones, pyramids and heads of detectors: maps of several sizes are fused, and there are several outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Classifier, Table, conv_bn, image, linear_bn


class CspBottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool = True):
        super().__init__()
        self.cv1, self.cv2 = conv_bn(width, width, 3, act=nn.SiLU()), conv_bn(width, width, 3, act=nn.SiLU())
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """YOLOv8: both halves of a chunk, and every bottleneck's output after them."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool):
        super().__init__()
        self.c = outputs // 2
        self.cv1 = conv_bn(inputs, 2 * self.c, 1, act=nn.SiLU(inplace=True))
        self.cv2 = conv_bn((2 + depth) * self.c, outputs, 1, act=nn.SiLU(inplace=True))
        self.m = nn.ModuleList(CspBottleneck(self.c, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    """YOLOv5: two 1×1 beside each other, bottlenecks behind one of them."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True):
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = conv_bn(inputs, half, 1, act=nn.SiLU()), conv_bn(inputs, half, 1, act=nn.SiLU())
        self.cv3 = conv_bn(2 * half, outputs, 1, act=nn.SiLU())
        self.m = nn.Sequential(*(CspBottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class Sppf(nn.Module):
    """Three max pools in a row, all concatenated."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.cv1, self.cv2 = conv_bn(inputs, inputs // 2, 1, act=nn.SiLU()), conv_bn(2 * inputs, outputs, 1)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Yolov8(nn.Module):
    """Two scales; boxes are expectations over 8 bins (distribution focal loss) around anchor points."""

    classes, bins = 5, 8

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low = conv_bn(3, 16, 3, 2, act=nn.SiLU()), C2f(16, 24, 1, True)
        self.down, self.high, self.sppf = conv_bn(24, 32, 3, 2, act=nn.SiLU()), C2f(32, 32, 2, True), Sppf(32, 32)
        self.fuse = C2f(56, 24, 1, False)
        self.boxes = nn.ModuleList([self._head(w, 4 * self.bins) for w in (24, 32)])
        self.scores = nn.ModuleList([self._head(w, self.classes) for w in (24, 32)])
        self.register_buffer("project", torch.arange(self.bins, dtype=torch.float))
        points = [torch.cartesian_prod(*[torch.arange(s) + 0.5] * 2).t() for s in (16, 8)]
        self.register_buffer("anchors", torch.cat(points, 1), persistent=False)

    @staticmethod
    def _head(width: int, outputs: int) -> nn.Module:
        return nn.Sequential(conv_bn(width, 16, act=nn.SiLU()), nn.Conv2d(16, outputs, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = self.low(self.stem(x))
        high = self.sppf(self.high(self.down(low)))
        low = self.fuse(torch.cat([F.interpolate(high, scale_factor=2, mode="nearest"), low], 1))
        maps = [torch.cat((b(f), s(f)), 1) for b, s, f in zip(self.boxes, self.scores, (low, high), strict=True)]
        joined = torch.cat([m.view(m.shape[0], 4 * self.bins + self.classes, -1) for m in maps], 2)
        box, scores = joined.split((4 * self.bins, self.classes), 1)
        b, _, a = box.shape
        distance = box.view(b, 4, self.bins, a).transpose(2, 1).softmax(1).transpose(1, 3) @ self.project
        left_top, right_bottom = distance.transpose(1, 2).chunk(2, 1)
        corners = torch.cat((self.anchors - left_top, self.anchors + right_bottom), 1)
        return corners, scores.sigmoid(), low


class Yolov5(nn.Module):
    """Anchor boxes: the head's channels are viewed as (anchors, outputs) and written to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv_bn(3, 16, 6, 2, act=nn.SiLU()), C3(16, 24), conv_bn(24, 32, 3, 2), C3(32, 32, 2)
        )
        self.sppf, self.detect = Sppf(32, 32), nn.Conv2d(32, 3 * 10, 1)
        self.register_buffer("anchors", torch.rand(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.detect(self.sppf(self.backbone(x)))
        bs, _, ny, nx = x.shape
        x = x.view(bs, 3, 10, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        xy, wh, conf = x.sigmoid().split((2, 2, 6), 4)
        y = torch.cat((xy * 2, (wh * 2) ** 2 * self.anchors, conf), 4)
        return y.view(bs, 3 * ny * nx, 10), x


class PartialStage(nn.Module):
    """CSPDarkNet: the stage's channels are halved by slices, one half skips the blocks."""

    def __init__(self, width: int):
        super().__init__()
        self.blocks = nn.Sequential(CspBottleneck(width // 2), CspBottleneck(width // 2))
        self.transition = conv_bn(width, width, 1, act=nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        half = x.size(1) // 2
        return self.transition(torch.cat([self.blocks(x[:, half:]), x[:, :half]], 1))


def csp_darknet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.Mish()), PartialStage(16), conv_bn(16, 32, 3, 2), PartialStage(32), Classifier(32)
    )


class HrNet(nn.Module):
    """Two sizes side by side, fused by sums after up- and downsampling; the end concatenates both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.make_low = conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2)
        self.high, self.low = conv_bn(16, 16), conv_bn(32, 32)
        self.up, self.down = linear_bn(32, 16), linear_bn(16, 32, 3, 2)
        self.last = nn.Sequential(conv_bn(48, 48, 1), nn.Conv2d(48, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = self.make_low(high)
        high, low = self.high(high), self.low(low)
        raised = F.interpolate(self.up(low), size=high.shape[2:], mode="bilinear", align_corners=True)
        high, low = F.relu(high + raised), F.relu(self.down(high) + low)
        low = F.interpolate(low, size=(16, 16), mode="bilinear", align_corners=False)
        return self.last(torch.cat([high, low], 1))


class Hourglass(nn.Module):
    """Recursive down and up with a skip at each size, two stacks with intermediate predictions fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.skips = nn.ModuleList([conv_bn(16, 16, 1) for _ in range(4)])
        self.downs = nn.ModuleList([conv_bn(16, 16) for _ in range(4)])
        self.inner = nn.ModuleList([conv_bn(16, 16) for _ in range(2)])
        self.predict = nn.ModuleList([nn.Conv2d(16, 4, 1) for _ in range(2)])
        self.feature, self.back = nn.Conv2d(16, 16, 1), nn.Conv2d(4, 16, 1)

    def hourglass(self, x: Tensor, stack: int, depth: int) -> Tensor:
        index = 2 * stack + depth
        low = self.downs[index](F.max_pool2d(x, 2, stride=2))
        low = self.inner[stack](low) if depth == 1 else self.hourglass(low, stack, depth + 1)
        return self.skips[index](x) + F.interpolate(low, scale_factor=2.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.hourglass(x, 0, 0)
        first = self.predict[0](y)
        x = x + self.feature(y) + self.back(first)
        return first, self.predict[1](self.hourglass(x, 1, 0))


class FeaturePyramid(nn.Module):
    """Lateral 1×1, top-down sums, one head shared by all levels; all anchors in one output."""

    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3, self.c4 = conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 32, 3, 2)
        self.lateral = nn.ModuleList([nn.Conv2d(w, 24, 1) for w in (16, 24, 32)])
        self.smooth = nn.ModuleList([nn.Conv2d(24, 24, 3, padding=1) for _ in range(3)])
        self.classify, self.regress = nn.Conv2d(24, 2 * 5, 3, padding=1), nn.Conv2d(24, 2 * 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c2 = self.c2(x)
        c3 = self.c3(c2)
        p4 = self.lateral[2](self.c4(c3))
        p3 = self.lateral[1](c3) + F.interpolate(p4, size=c3.shape[-2:], mode="nearest")
        p2 = self.lateral[0](c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        levels = [smooth(p) for smooth, p in zip(self.smooth, (p2, p3, p4), strict=True)]
        scores = [self.classify(p).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5) for p in levels]
        boxes = [self.regress(p).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for p in levels]
        return torch.cat(scores, dim=1), torch.cat(boxes, dim=1)


class WeightedPyramid(nn.Module):
    """BiFPN: fusions weighted by normalised learnt scalars; separable convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.p3, self.p4 = conv_bn(3, 24, 3, 2, act=nn.SiLU()), conv_bn(24, 24, 3, 2, act=nn.SiLU())
        self.w_up, self.w_down = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        self.convs = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24), linear_bn(24, 24)) for _ in "ab"]
        )
        self.head = nn.Conv2d(24, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        w = F.relu(self.w_up)
        w = w / (torch.sum(w, dim=0) + 0.0001)
        up = self.convs[0](F.silu(w[0] * p3 + w[1] * F.interpolate(p4, scale_factor=2, mode="nearest")))
        w = self.w_down.softmax(0)
        down = self.convs[1](F.silu(w[0] * p4 + w[1] * F.max_pool2d(up, 2) + w[2] * F.max_pool2d(p3, 2)))
        return self.head(up), self.head(down)


class SingleShot(nn.Module):
    """SSD: heads on several sizes, channel-wise L2 norm with a learnt scale on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_bn(3, 24, 3, 2), conv_bn(24, 32, 3, 2), conv_bn(32, 32, 3, 2)])
        self.scale = nn.Parameter(torch.full((24,), 20.0))
        self.heads = nn.ModuleList([nn.Conv2d(w, 4 * 7, 3, padding=1) for w in (24, 32, 32)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = []
        for i, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            scaled = self.scale.view(1, -1, 1, 1) * F.normalize(x) if i == 0 else x
            made.append(head(scaled).permute(0, 2, 3, 1).flatten(1))
        out = torch.cat(made, 1).view(x.size(0), -1, 7)
        return out[..., :4], F.softmax(out[..., 4:], dim=-1)


TABLE: Table = {
    "yolov8": (Yolov8, image()),
    "yolov5": (Yolov5, image()),
    "csp_darknet": (csp_darknet, image()),
    "hrnet": (HrNet, image()),
    "hourglass": (Hourglass, image()),
    "feature_pyramid": (FeaturePyramid, image()),
    "weighted_pyramid": (WeightedPyramid, image()),
    "single_shot": (SingleShot, image()),
}
