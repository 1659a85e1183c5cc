"""Label-driven simulated bpMRI whose concepts are known because they were drawn.

Used to train and to measure, never to infer.
"""
