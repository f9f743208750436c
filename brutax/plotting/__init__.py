"""brutax.plotting"""
