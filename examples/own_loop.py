"""packlight's hooks in a plain PyTorch loop: distillation and gradual pruning in five lines of yours.

python examples/own_loop.py
"""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import packlight as pl
from packlight import students
from packlight.train import Distill, Hooks, Sparsify, Sparsity

task = pl.Task.named("fashion-mnist-demo")
batch = next(task.data("train").batches(512))
loader = DataLoader(TensorDataset(torch.from_numpy(batch.inputs[0]), torch.from_numpy(batch.targets)), 32, shuffle=True)
EPOCHS = 16

torch.manual_seed(0)
model = pl.load(students.make("resnet8", 10, (1, 28, 28), width=0.5), torch.zeros(2, 1, 28, 28), name="student")
teacher = pl.load("packlight/data/resnet20_fashion_mnist.plm")

hooks = Hooks(model, [Distill(teacher), Sparsify(Sparsity(0.5))], steps=EPOCHS * len(loader))  # 1
optimizer = torch.optim.AdamW([*model.parameters(), *hooks.parameters()], lr=3e-3)
model.train()
for _ in range(EPOCHS):
    for x, y in loader:
        outputs = hooks.forward(x)  # 2
        loss = hooks.loss(cross_entropy(outputs, y), y)  # 3
        optimizer.zero_grad()
        loss.backward()
        hooks.before_step()  # 4
        optimizer.step()
        hooks.after_step()  # 5
hooks.end()
model.eval()

zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)
total = sum(p.numel() for p in model.parameters() if p.dim() > 1)
print(f"{zeros / total:.0%} of the weights are zero; accuracy on test data {pl.measure(model, task)['quality']}")
