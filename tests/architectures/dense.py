"""An output for every pixel: segmentation, generators, autoencoders, and norms other than batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import Table, conv_bn, floats, image


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int):
        super().__init__(conv_bn(inputs, outputs), conv_bn(outputs, outputs))


class UNet(nn.Module):
    """Transposed convolutions, odd sizes padded, skips before the raised maps."""

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(3, 16), DoubleConv(16, 24), DoubleConv(24, 32)
        self.up1, self.conv1 = nn.ConvTranspose2d(32, 24, 2, stride=2), DoubleConv(48, 24)
        self.up2, self.conv2 = nn.ConvTranspose2d(24, 16, 2, stride=2), DoubleConv(32, 16)
        self.outc = nn.Conv2d(16, 4, 1)

    @staticmethod
    def join(x: Tensor, skip: Tensor) -> Tensor:
        dy, dx = skip.size()[2] - x.size()[2], skip.size()[3] - x.size()[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return torch.cat([skip, x], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        x3 = self.down2(F.max_pool2d(x2, 2))
        x = self.conv1(self.join(self.up1(x3), x2))
        return self.outc(self.conv2(self.join(self.up2(x), x1)))


class UpsampleUNet(nn.Module):
    """Bilinear upsampling, additive attention gates on the skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2, self.enc3 = DoubleConv(3, 16), DoubleConv(16, 32), DoubleConv(32, 32)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.gate_x, self.gate_g, self.psi = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 1, 1)
        self.dec2, self.dec1, self.out = DoubleConv(64, 16), DoubleConv(32, 16), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(F.max_pool2d(e1, 2))
        g = self.up(self.enc3(F.max_pool2d(e2, 2)))
        e2 = e2 * torch.sigmoid(self.psi(F.relu(self.gate_x(e2) + self.gate_g(g))))
        d2 = self.dec2(torch.cat((e2, g), dim=1))
        return torch.sigmoid(self.out(self.dec1(torch.cat((e1, self.up(d2)), dim=1))))


class SegNet(nn.Module):
    """Max pools return where each maximum was, and unpooling puts the decoder's channels there."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2 = conv_bn(3, 16), conv_bn(16, 32)
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
        self.dec2, self.dec1 = conv_bn(32, 16), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x, where1 = self.pool(self.enc1(x))
        x, where2 = self.pool(self.enc2(x))
        x = self.dec2(self.unpool(x, where2))
        return self.dec1(self.unpool(x, where1))


class Aspp(nn.Module):
    """Dilated convolutions beside a pooled branch that is raised again."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.convs = nn.ModuleList([conv_bn(inputs, width, 1)])
        for rate in (2, 4):
            conv = nn.Conv2d(inputs, width, 3, padding=rate, dilation=rate, bias=False)
            self.convs.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, width, 1), nn.ReLU())
        self.project = nn.Sequential(conv_bn(4 * width, width, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(conv(x) for conv in self.convs), pooled], dim=1))


class DeepLab(nn.Module):
    """ASPP, and DeepLabV3+'s decoder with low-level features."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2)
        self.aspp, self.reduce = Aspp(32, 16), conv_bn(16, 8, 1)
        self.classifier = nn.Sequential(conv_bn(24, 16), nn.Conv2d(16, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        low = self.low(x)
        y = self.aspp(self.high(low))
        y = F.interpolate(y, size=low.shape[-2:], mode="bilinear", align_corners=False)
        y = self.classifier(torch.cat([self.reduce(low), y], 1))
        return F.interpolate(y, size=size, mode="bilinear", align_corners=False)


class PspNet(nn.Module):
    """Pyramid pooling to 1, 2 and 4 bins; an auxiliary output half way up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2)
        self.features = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(n), conv_bn(32, 8, 1)) for n in (1, 2, 4)])
        self.cls = nn.Sequential(conv_bn(56, 24), nn.Dropout2d(p=0.1), nn.Conv2d(24, 5, 1))
        self.aux = nn.Sequential(conv_bn(16, 8), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.stem(x)
        x = self.deep(middle)
        raised = [F.interpolate(f(x), x.size()[2:], mode="bilinear", align_corners=True) for f in self.features]
        return self.cls(torch.cat([x, *raised], 1)), self.aux(middle)


class FullyConvolutional(nn.Module):
    """FCN-8s: score maps of two depths summed after transposed convolutions, then cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2)
        self.score1, self.score2 = nn.Conv2d(16, 4, 1), nn.Conv2d(32, 4, 1)
        self.up2, self.up = nn.ConvTranspose2d(4, 4, 4, 2, bias=False), nn.ConvTranspose2d(4, 4, 4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h1 = self.stage1(x)
        h2 = self.up2(self.score2(self.stage2(h1)))
        h1 = self.score1(h1)
        h = self.up(h1 + h2[:, :, 1 : 1 + h1.size(2), 1 : 1 + h1.size(3)])
        return h[:, :, 1 : 1 + x.size(2), 1 : 1 + x.size(3)].contiguous()


class NonLocal(nn.Module):
    """Every pixel attends to every other, by matrix products of flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32, 3, 2)
        self.theta, self.phi, self.g = (nn.Conv2d(32, 16, 1) for _ in range(3))
        self.w, self.head = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)), nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch = x.size(0)
        g = F.max_pool2d(self.g(x), 2).view(batch, 16, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, 16, -1).permute(0, 2, 1)
        phi = F.max_pool2d(self.phi(x), 2).view(batch, 16, -1)
        y = torch.matmul(F.softmax(torch.matmul(theta, phi), dim=-1), g)
        y = y.permute(0, 2, 1).contiguous().view(batch, 16, *x.size()[2:])
        return self.head(self.w(y) + x)


def dcgan_generator() -> nn.Module:
    def up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]

    last = nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False)
    return nn.Sequential(*up(24, 48, 1, 0), *up(48, 32, 2, 1), *up(32, 16, 2, 1), last, nn.Tanh())


def dcgan_discriminator() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in ((16, 32), (32, 48)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(48, 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0))


class Conditional(nn.Module):
    """A generator told what to make: linear to maps by a literal view, styles scale and shift the channels (AdaIN)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.styles = nn.Linear(16, 32 * 4 * 4), nn.ModuleList([nn.Linear(8, 2 * w) for w in (24, 16)])
        self.convs = nn.ModuleList([nn.Conv2d(32, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)])
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, noise: Tensor, style: Tensor) -> Tensor:
        x = self.fc(noise).view(-1, 32, 4, 4)
        for conv, linear in zip(self.convs, self.styles, strict=True):
            x = F.instance_norm(conv(F.interpolate(x, scale_factor=2)))
            scale, shift = linear(style).unsqueeze(2).unsqueeze(3).chunk(2, 1)
            x = F.leaky_relu((1 + scale) * x + shift, 0.2)
        return torch.tanh(self.out(x))


class Autoencoder(nn.Module):
    """Down to 16 numbers and up again, through nn.Flatten and nn.Unflatten."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(True), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(True),
            nn.Flatten(start_dim=1), nn.Linear(24 * 7 * 7, 16),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(16, 24 * 7 * 7), nn.ReLU(True), nn.Unflatten(1, (24, 7, 7)),
            nn.ConvTranspose2d(24, 16, 3, 2, 1, output_padding=1), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 1, 3, 2, 1, output_padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(self.encoder(x)))


class Variational(nn.Module):
    """Mean and log-variance heads on one code; decodes the mean, and gives all three."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2))
        self.fc_mu, self.fc_var = nn.Linear(32 * 64, 16), nn.Linear(32 * 64, 16)
        self.decode = nn.Linear(16, 32 * 64)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), conv_bn(32, 16), nn.Upsample(scale_factor=2))
        self.out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        code = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.fc_mu(code), self.fc_var(code)
        z = mu + torch.exp(0.5 * log_var).mean(1, keepdim=True)
        return [self.out(self.up(self.decode(z).view(-1, 32, 8, 8))), mu, log_var]


class VectorQuantised(nn.Module):
    """VQ-VAE: codes from the distances to a codebook, looked up again; the nearest by argmin, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(3, 16, 3, 2), nn.Conv2d(16, 8, 3, 2, 1))
        self.codebook = nn.Embedding(12, 8)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, 8)
        books = self.codebook.weight
        distances = flat.pow(2).sum(1, keepdim=True) + books.pow(2).sum(1) - 2 * flat @ books.t()
        codes = self.codebook(distances.argmin(1)).view(z.shape)
        return self.decoder((z + (codes - z).detach()).permute(0, 3, 1, 2)), codes


class GroupNormResidual(nn.Module):
    """Group norms of 4 and 8 groups (what big-transfer ResNets and diffusion U-Nets use)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.norm1, self.conv1 = nn.GroupNorm(8, 32), nn.Conv2d(32, 24, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, 24), nn.Conv2d(24, 32, 3, padding=1)
        self.norm3, self.head = nn.GroupNorm(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return self.head(F.silu(self.norm3(x)).mean(dim=(2, 3)))


class Diffusion(nn.Module):
    """A denoiser: sines of the time through linears onto the channels, attention between pixels, group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.shift, self.norm, self.conv = nn.Linear(32, 64), nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 3, padding=1)
        self.qkv, self.proj = nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.Conv2d(32, 3, 3, padding=1)
        self.register_buffer("frequencies", torch.exp(-torch.arange(8) / 2.0))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time * self.frequencies[None, :]
        scale, shift = self.shift(self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))).chunk(2, dim=1)
        first = self.stem(x)
        x = self.down(first)
        y = self.norm(x) * (scale[:, :, None, None] + 1) + shift[:, :, None, None]
        x = x + self.conv(F.silu(y))
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, 2, c // 2, h * w).unbind(1)
        weights = torch.einsum("bhci,bhcj->bhij", q * (c // 2) ** -0.5, k).softmax(dim=-1)
        x = x + self.proj(torch.einsum("bhij,bhcj->bhci", weights, v).reshape(b, c, h, w))
        return self.out(torch.cat([self.up(x), first], dim=1))


class StyleTransfer(nn.Module):
    """Reflection padding and instance norms with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(4), nn.Conv2d(3, 16, 9), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(16, 32, 3, 2), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
        )  # fmt: skip
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32),
        )  # fmt: skip
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReplicationPad2d(1), nn.Conv2d(32, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.up(x + self.body(x))


def weight_norm_net() -> nn.Module:
    """Weights computed from a direction and a size, as a parametrization."""
    norm = nn.utils.parametrizations.weight_norm
    convs = norm(nn.Conv2d(3, 16, 3, padding=1)), norm(nn.Conv2d(16, 24, 3, 2, 1))
    return nn.Sequential(convs[0], nn.ELU(), convs[1], nn.ELU(), nn.Flatten(), norm(nn.Linear(24 * 64, 10)))


def old_weight_norm_net() -> nn.Module:
    """Weights computed in a hook before each forward, as before parametrizations."""
    norm = nn.utils.weight_norm
    return nn.Sequential(
        norm(nn.Conv1d(1, 16, 7, padding=3)), nn.LeakyReLU(0.1), norm(nn.ConvTranspose1d(16, 8, 4, 2, 1)),
        nn.LeakyReLU(0.1), norm(nn.Conv1d(8, 1, 7, padding=3)), nn.Tanh(),
    )  # fmt: skip


class ImplicitField(nn.Module):
    """NeRF: sines of the coordinates, the input concatenated again half way, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Linear(27, 32), nn.ReLU(), nn.Linear(32, 32)), nn.Linear(59, 32)
        self.sigma, self.colour = nn.Linear(32, 1), nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        waves = [f(2.0**i * x) for i in range(4) for f in (torch.sin, torch.cos)]
        x = torch.cat([x, *waves], dim=-1)
        h = F.relu(self.second(torch.cat([x, F.relu(self.first(x))], -1)))
        return torch.cat([torch.sigmoid(self.colour(h)), F.softplus(self.sigma(h))], -1)


TABLE: Table = {
    "unet": (UNet, image()),
    "unet_upsample": (UpsampleUNet, image()),
    "segnet": (SegNet, image()),
    "deeplab": (DeepLab, image()),
    "pspnet": (PspNet, image()),
    "fully_convolutional": (FullyConvolutional, image()),
    "non_local": (NonLocal, image(3, 16)),
    "dcgan_generator": (dcgan_generator, floats(24, 1, 1)),
    "dcgan_discriminator": (dcgan_discriminator, image()),
    "conditional_generator": (Conditional, lambda: (torch.randn(2, 16), torch.randn(2, 8))),
    "autoencoder": (Autoencoder, image(1, 28)),
    "variational": (Variational, image()),
    "vector_quantised": (VectorQuantised, image()),
    "group_norm_resnet": (GroupNormResidual, image()),
    "diffusion_unet": (Diffusion, lambda: (torch.randn(2, 3, 16, 16), torch.rand(2, 1))),
    "style_transfer": (StyleTransfer, image(3, 16)),
    "weight_norm": (weight_norm_net, image(3, 16)),
    "old_weight_norm": (old_weight_norm_net, floats(1, 32)),
    "implicit_field": (ImplicitField, floats(6, 3)),
}
