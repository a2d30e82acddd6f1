"""Fast training and inference kernels: packing, fused LoRA products, CUDA graphs, flat parameters, fp8, merging."""
