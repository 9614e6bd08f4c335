"""The program of Lambent's Python runtimes. What it does is in lambent_runtime, which Python keeps compiled."""

import lambent_runtime

if __name__ == "__main__":
    lambent_runtime.main()
