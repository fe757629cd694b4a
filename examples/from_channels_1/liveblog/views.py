"""The page of a blog."""

from django.shortcuts import get_object_or_404, render

from liveblog.models import Liveblog


def blog(request, slug):
    liveblog = get_object_or_404(Liveblog, slug=slug)
    return render(request, "liveblog/blog.html", {"liveblog": liveblog, "posts": liveblog.posts.all()})
