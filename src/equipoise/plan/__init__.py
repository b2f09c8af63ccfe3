"""What a cluster would do, on paper: a simulated pipeline of samplers, publication and learners.

``hardware`` and ``roofline`` say how long each piece takes, or ``calibrate`` does, from a measured run. ``pipeline``
plays the pieces against each other, ``report`` says what bounds the whole, ``split`` searches. Nothing here is a
measurement.
"""
