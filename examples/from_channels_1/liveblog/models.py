"""Blogs whose readers see a post the moment it is saved, wherever it is saved: admin, shell, another view."""

import json

from django.db import models

from channels import Group


class Liveblog(models.Model):
    title = models.CharField(max_length=255)
    slug = models.SlugField(unique=True)

    def __str__(self):
        return self.title

    @property
    def group_name(self):
        return f"liveblog-{self.pk}"


class Post(models.Model):
    liveblog = models.ForeignKey(Liveblog, related_name="posts", on_delete=models.CASCADE)
    body = models.TextField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created"]

    def __str__(self):
        return f"#{self.pk}: {self.body:.40}"

    def save(self, *args, **kwargs):
        super().save(*args, **kwargs)
        self.send_notification()

    def send_notification(self):
        """Tell the readers; those of an edited post get it again, under the same id."""
        notification = {"id": self.pk, "body": self.body, "created": self.created.isoformat()}
        Group(self.liveblog.group_name).send({"text": json.dumps(notification)})
