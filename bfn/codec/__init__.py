"""A lossless codec by a trained model: a file of examples is about as large as the bound L_n + L_r says.

Alice sends the states S_i = α_1 y_1 + … + α_i y_i of n steps, rounded to lattices, and then the data. She draws S_n
from the flow, and each S_{i−1} from a Brownian bridge, given S_i. Her random bits are taken from the file, and Bob puts
them back when he has decoded an example ("bits back"; Bit-Swap, Kingma et al. 2019, takes turns in the same way).
"""
