"""packlight's hooks in a module written as Lightning wants it: methods that a trainer calls in its order.

The short trainer below calls the methods as Lightning's does, so that this runs without it; with Lightning
installed, derive from lightning.LightningModule and give the module to lightning.Trainer.

    python examples/lightning_style.py
"""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import packlight as pl
from packlight import students
from packlight.train import GroupLasso, Hooks


class Student:
    def __init__(self, steps: int):
        torch.manual_seed(0)
        module = students.make("resnet8", 10, (1, 28, 28), width=0.5)
        self.model = pl.load(module, torch.zeros(2, 1, 28, 28), name="student")
        self.hooks = Hooks(self.model, [GroupLasso(1e-4)], steps)  # 1

    def configure_optimizers(self):
        return torch.optim.AdamW([*self.model.parameters(), *self.hooks.parameters()], lr=3e-3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.hooks.loss(cross_entropy(self.hooks.forward(x), y), y)  # 2

    def on_before_optimizer_step(self, optimizer):
        self.hooks.before_step()  # 3

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.hooks.after_step()  # 4

    def on_train_end(self):
        self.hooks.end()  # 5


def trainer(module, loader, epochs):
    optimizer = module.configure_optimizers()
    module.model.train()
    for _ in range(epochs):
        for i, batch in enumerate(loader):
            loss = module.training_step(batch, i)
            optimizer.zero_grad()
            loss.backward()
            module.on_before_optimizer_step(optimizer)
            optimizer.step()
            module.on_train_batch_end(loss, batch, i)
    module.on_train_end()
    module.model.eval()


task = pl.Task.named("fashion-mnist-demo")
batch = next(task.data("train").batches(512))
loader = DataLoader(TensorDataset(torch.from_numpy(batch.inputs[0]), torch.from_numpy(batch.targets)), 32, shuffle=True)
student = Student(steps=8 * len(loader))
trainer(student, loader, epochs=8)
print(f"accuracy on test data {pl.measure(student.model, task)['quality']}")
