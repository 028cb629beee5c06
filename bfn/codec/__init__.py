"""A lossless codec by a trained model: a file of examples is about as large as the bound L_n + L_r says.

Alice sends the states S_i = α_1 y_1 + … + α_i y_i of n steps, rounded to lattices, and then the data. Of these she
chooses S_n by the flow and each S_{i−1} by a Brownian bridge, given S_i. Her choices are bits of the file, which Bob
gets back when he has decoded an example ("bits back"; Bit-Swap, Kingma et al. 2019, takes turns in the same way).
"""
