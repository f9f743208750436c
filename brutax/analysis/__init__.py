"""brutax.analysis"""
