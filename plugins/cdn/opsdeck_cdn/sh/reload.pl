# Have nginx read its configuration anew, and wait until no worker takes requests by the old one. Argument: the file with
# the master's number. Where none runs there is nothing to do: it reads all when it starts.
use strict;
use warnings;

sub text {
    my ($path) = @_;
    open(my $file, '<:raw', $path) or return '';
    local $/;
    my $text = <$file>;
    return defined $text ? $text : '';
}

my ($master) = text($ARGV[0]) =~ /\A(\d+)/ or exit 0;
text("/proc/$master/cmdline") =~ /\Anginx: master process/ or exit 0;

# Those who take requests, and are not about to end.
sub workers {
    opendir(my $handle, '/proc') or die "/proc: $!\n";
    my @pids = grep { /\A\d+\z/ } readdir($handle);
    closedir($handle);
    return grep {
        text("/proc/$_/stat") =~ /\) \S (\d+) [^)]*\z/ && $1 == $master
            && text("/proc/$_/cmdline") =~ /\Anginx: worker process(?:\0|\z)/
    } @pids;
}

my %old = map { $_ => 1 } workers();
kill('HUP', $master) or die "nginx ($master): $!\n";
for (1 .. 1000) {
    exit 0 unless grep { $old{$_} } workers();
    select(undef, undef, undef, 0.02);
}
die "workers go on with the old configuration\n";
