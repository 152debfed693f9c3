"""Networks: backbones, the contrastive encoder, the autoencoders, and the loop that trains them."""
