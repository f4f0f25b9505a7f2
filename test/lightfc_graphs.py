# SPDX-License-Identifier: Apache-2.0
"""Graphs of the layout of LightFC's published ones, with random weights: written from that layout,
without the package's own network.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

_FLOAT = TensorProto.FLOAT


class _Builder:
    def __init__(self, rng):
        self.rng = rng
        self.nodes, self.constants = [], {}

    def node(self, kind, *inputs, **attributes):
        name = f"map{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, name, value):
        self.constants[name] = np.asarray(value)
        return name

    def conv(self, name, x, inp, out, kernel, stride=1, groups=1, gain=1.0):
        deviation = gain * (groups / inp) ** 0.5 / kernel
        weight = self.rng.normal(0, deviation, (out, inp // groups, kernel, kernel))
        inputs = (
            x,
            self.constant(f"{name}.weight", weight.astype(np.float32)),
            self.constant(f"{name}.bias", self.rng.normal(0, 0.1, out).astype(np.float32)),
        )
        sizes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.node("Conv", *inputs, group=groups, **sizes)

    def clip(self, name, x, low, high):
        bounds = (
            self.constant(f"{name}.{end}", np.array([value], np.float32))
            for end, value in (("lo", low), ("hi", high))
        )
        flat = [self.node("Squeeze", bound) for bound in bounds]
        return self.node("Clip", x, *flat)

    def reshape(self, name, x, shape):
        return self.node("Reshape", x, self.constant(f"{name}.shape", np.array(shape)))

    def squeezed(self, x, reduce, expand, channels, hidden):
        mean = self.node("GlobalAveragePool", x)
        small = self.node("Relu", self.conv(reduce, mean, channels, hidden, 1))
        scale = self.node("Sigmoid", self.conv(expand, small, hidden, channels, 1))
        return self.node("Mul", x, scale)

    def trunk(self, x):
        def relu6(name, *arguments, **sizes):
            return self.clip(name, self.conv(name, x, *arguments, **sizes), 0, 6)

        x = relu6("backbone.convclip_0", 3, 32, 3, stride=2)
        x = relu6("backbone.convdwclip_0", 32, 32, 3, groups=32)
        x = self.conv("backbone.conv_1", x, 32, 16, 1)
        width, number = 16, 0
        for out, strides in ((24, (2, 1)), (32, (2, 1, 1)), (64, (2, 1, 1, 1)), (96, (1, 1, 1))):
            for stride in strides:
                number += 1
                before, hidden = x, 6 * width
                x = relu6(f"backbone.convclip_{number}", width, hidden, 1)
                x = relu6(f"backbone.convdwclip_{number}", hidden, hidden, 3, stride, hidden)
                x = self.conv(f"backbone.conv_{2 * number + 1}", x, hidden, out, 1)
                if stride == 1 and width == out:
                    x = self.node("Add", before, x)
                width = out
        return x

    def fusion(self, template, features):
        kernels = self.node(
            "Transpose", self.reshape("fusion.reshape_9", template, (1, 96, 64)), perm=[0, 2, 1]
        )
        maps = self.node(
            "MatMul", kernels, self.reshape("fusion.reshape_10", features, (1, 96, 256))
        )
        maps = self.reshape("fusion.reshape_11", maps, (1, 64, 16, 16))
        maps = self.squeezed(maps, "fusion.convrelu_0", "fusion.convsigmoid_1", 64, 64)
        point = self.conv("fusion.convdw_15", maps, 64, 64, 1, groups=64)
        around = self.conv("fusion.convdw_16", maps, 64, 64, 3, groups=64)
        maps = self.node("Add", self.node("Add", maps, point), around)
        wide = self.node("Gelu", self.conv("fusion.conv_2", maps, 64, 128, 1))
        maps = self.node("Add", maps, self.conv("fusion.conv_3", wide, 128, 64, 1))
        # Correlations are sums of 96 products: small again, or every map is saturated.
        maps = self.conv("fusion.conv_4", maps, 64, 96, 1, gain=1e-3)
        return self.node("Concat", maps, features, axis=1)

    def tower(self, name, x, outputs):
        widths = (192, 256, 128, 64, 32)
        for layer, (inp, out) in zip(
            (0, 2, 3, 4), zip(widths, widths[1:], strict=False), strict=True
        ):
            x = self.node("Relu", self.conv(f"{name}.convrelu_{layer}", x, inp, out, 3))
            if layer == 0:
                x = self.squeezed(x, f"{name}.convrelu_1", f"{name}.convsigmoid_5", 256, 64)
        if name == "offset":
            return self.conv("offset.conv_6", x, 32, outputs, 1)
        x = self.node("Sigmoid", self.conv(f"{name}.convsigmoid_6", x, 32, outputs, 1))
        return self.clip(f"{name}.clamp_16", x, 1e-4, 0.9999)

    def model(self, name, inputs, outputs):
        for (given, _), made in zip(outputs, self.results, strict=True):
            self.nodes.append(helper.make_node("Identity", [made], [given]))
        graph = helper.make_graph(
            self.nodes,
            name,
            *(
                [helper.make_tensor_value_info(item, _FLOAT, shape) for item, shape in ends]
                for ends in (inputs, outputs)
            ),
            [numpy_helper.from_array(value, key) for key, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def published_graphs(rng):
    """``lightfc_template.onnx`` and ``lightfc_search.onnx`` as models, with one trunk."""
    seed = int(rng.integers(1 << 30))
    template = _Builder(np.random.default_rng(seed))
    template.results = [template.trunk("image")]
    search = _Builder(np.random.default_rng(seed))
    both = search.fusion("template", search.trunk("image"))
    search.results = [
        search.tower(name, both, outputs)
        for name, outputs in (("score", 1), ("size", 2), ("offset", 2))
    ]
    maps = [
        (f"{name}_map", [1, n, 16, 16]) for name, n in (("score", 1), ("size", 2), ("offset", 2))
    ]
    features = ("features", [1, 96, 8, 8])
    return {
        "lightfc_template.onnx": template.model(
            "template", [("image", [1, 3, 128, 128])], [features]
        ),
        "lightfc_search.onnx": search.model(
            "search", [("template", features[1]), ("image", [1, 3, 256, 256])], maps
        ),
    }
