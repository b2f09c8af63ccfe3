"""The parts that recipes are composed of. Functions return parts; parts are named after what they do."""
