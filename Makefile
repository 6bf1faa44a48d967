# `make up` installs and starts Boxkeep; `make test` passes every test. INSTANCE, PORT and SUBNET name another installation,
# CAPABILITIES what it is to have besides: documents, browser, opencode. DISKS=directory is for hosts without btrfs.
.PHONY: up restart down purge status test check generate format bench soak test-fresh-host

up restart down purge status:
	@scripts/instance.sh $@

test check generate format bench soak:
	@scripts/develop.sh $@

test-fresh-host:
	@scripts/fresh_host.sh
