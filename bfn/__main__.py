from bfn.cli import main

main()
