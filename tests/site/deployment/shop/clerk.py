"""Saves so many orders, each with a message in its transaction, and takes every other one back.

Run as a program: the number of orders is its argument; it ends when all are through.
"""

import sys

import django


class ChangedMind(Exception):
    """The customer's."""


def main(count: int) -> None:
    django.setup()

    from django.db import transaction

    from channels_core import Channel
    from deployment.shop.models import Order

    for number in range(count):
        try:
            with transaction.atomic():
                Order.objects.create(number=number)
                Channel("orders").send({"number": number}, transactional=True)
                if number % 2:
                    raise ChangedMind
        except ChangedMind:
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]))
