import gc

from strategies import Choice, Slot, Strategy


class NoGc(Strategy):
    name = "no_gc"
    slot = Slot.EXTRA
    summary = "no pauses for Python's cyclic garbage collector"
    knobs = (Choice(name="no_gc", default=False, values=(False, True), doc="turn the collector off in every rank"),)

    def active(self, plan):
        return plan["no_gc"]

    def showcases(self, facts):
        return [{"no_gc": True}]

    def apply(self, training):
        gc.disable()
