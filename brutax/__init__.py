"""brutax"""
