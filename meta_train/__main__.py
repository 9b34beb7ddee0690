"""`python -m meta_train`."""

from meta_train.cli.main import main

if __name__ == "__main__":
    main()
